//! Many spokes in one process: a tunnel core and a UDP socket each, and nothing else.
//!
//! Each has a loopback address of its own, as machines have: what a hub allows one source is not shared.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result};
use blueprint_common_runtime::cli::print_line;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel_core::SoloTunnel;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::time::sleep_until;

use crate::plane;

/// First address of the spokes, inside 127.0.0.0/8.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);

/// Datagrams of a spoke that idles are far smaller.
const LONGEST: usize = 2048;

/// Datagrams taken before the others have their turn.
const AT_ONCE: usize = 16;

/// Runs `count` spokes of the hub at `hub` until standard input ends.
///
/// # Errors
///
/// Fails where a socket cannot be bound.
pub(crate) async fn run(hub: SocketAddr, count: u32, spawner: &Spawner) -> Result<()> {
    for number in 1..=count {
        let spoke = Spoke::start(number, hub).await?;
        // Spokes that end are missed where the hub counts them.
        spawner.spawn("spoke", spoke.run());
    }
    print_line(&json!({ "spokes": count }).to_string());
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

struct Spoke {
    core: SoloTunnel,
    socket: UdpSocket,
}

impl Spoke {
    async fn start(number: u32, hub: SocketAddr) -> Result<Self> {
        let address = Ipv4Addr::from_bits(FIRST.to_bits().saturating_add(number));
        let socket = UdpSocket::bind((IpAddr::V4(address), 0)).await;
        let socket = socket.with_context(|| format!("cannot open the socket of spoke {number}"))?;
        let now = Instant::now();
        let mut core = SoloTunnel::new(plane::core(number)?, now);
        core.upsert_peer(plane::peer(0, Some(hub))?, now)?;
        Ok(Self { core, socket })
    }

    async fn run(mut self) {
        loop {
            self.settle();
            let deadline = self.core.poll_timeout();
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => self.core.handle_timeout(Instant::now()),
                readable = self.socket.readable() => match readable {
                    Ok(()) => self.receive(),
                    Err(_) => return,
                },
            }
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; LONGEST];
        for _ in 0..AT_ONCE {
            // Errors are those of a hub that is not there at this moment.
            let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) else { return };
            self.core.handle_datagram(from, buffer.get(..length).unwrap_or_default(), Instant::now());
        }
    }

    fn settle(&mut self) {
        while let Some(transmit) = self.core.poll_transmit() {
            // What the socket does not take is lost, as on any path.
            let _ = self.socket.try_send_to(&transmit.payload, transmit.to.remote);
            self.core.recycle(transmit.payload);
        }
        while let Some(packet) = self.core.poll_packet() {
            self.core.recycle(packet);
        }
        while self.core.poll_event().is_some() {}
    }
}
