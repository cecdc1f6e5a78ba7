//! One engine and many spokes over loopback UDP: added one after the other, up, and back after a restart.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{Config, Limits, OverlayPrefixes, PeerConfig, Role, SoloTunnel};
use blueprint_common_types::{OverlayLease, WgPrivateKey};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Tunnel, TunnelConfig};

/// Spokes, each with a socket: as many as may dial at once in a build without optimisation and leave the other
/// tests their time. Ten thousand are for `bench-system`.
const SPOKES: u32 = 200;
/// A second on an idle machine; a shared one is slower.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Number 0 is the hub.
fn config(number: u32) -> Config {
    let mut secret = [9; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    Config {
        private_key: WgPrivateKey::from_bytes(secret),
        addresses: lease(number),
        prefixes: OverlayPrefixes { v4: "10.64.0.0/12".parse().unwrap(), v6: "fd64::/64".parse().unwrap() },
        role: if number == 0 { Role::Hub } else { Role::Spoke },
        mtu: 1420,
        limits: Limits::default(),
        answers_echoes: true,
        own_rules: None,
        seed: secret,
    }
}

fn lease(number: u32) -> OverlayLease {
    let last = number + 1;
    let v6 = (0xfd64_u128 << 112) + u128::from(last);
    OverlayLease { v4: Ipv4Addr::from_bits(0x0a40_0000 + last), v6: v6.into() }
}

fn peer(number: u32, endpoint: Option<SocketAddr>) -> PeerConfig {
    let allowed_ips = match number {
        0 => vec!["10.64.0.0/12".parse().unwrap(), "fd64::/64".parse().unwrap()],
        _ => vec![
            std::net::IpAddr::from(lease(number).v4).into(),
            std::net::IpAddr::from(lease(number).v6).into(),
        ],
    };
    let public_key = config(number).private_key.public_key();
    PeerConfig {
        public_key,
        allowed_ips,
        endpoint: endpoint.map(Into::into),
        preshared_key: None,
        keepalive: None,
    }
}

/// A core and a socket at an address of its own.
async fn spoke(number: u32, hub: SocketAddr) {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 66, 0, 0).to_bits() + number);
    let socket = UdpSocket::bind((address, 0)).await.unwrap();
    let mut core = SoloTunnel::new(config(number), Instant::now());
    core.upsert_peer(peer(0, Some(hub)), Instant::now()).unwrap();
    let mut buffer = [0; 2048];
    loop {
        while let Some(transmit) = core.poll_transmit() {
            // What nobody listens for is lost.
            let _ = socket.try_send_to(&transmit.payload, transmit.to.remote);
        }
        while core.poll_event().is_some() {}
        let due = core.poll_timeout().unwrap();
        tokio::select! {
            received = socket.recv_from(&mut buffer) => if let Ok((len, from)) = received {
                core.handle_datagram(from, &buffer[..len], Instant::now());
            },
            () = tokio::time::sleep_until(due.into()) => core.handle_timeout(Instant::now()),
        }
    }
}

/// A hub that has added its peers one after the other.
async fn hub(listen: SocketAddr, engines: &mut JoinSet<()>) -> (Tunnel, CancellationToken) {
    let (tunnel, engine) = Tunnel::bind(TunnelConfig::new(listen, config(0))).unwrap();
    let stop = CancellationToken::new();
    engines.spawn(engine.run(stop.clone()));
    for number in 1..=SPOKES {
        tunnel.upsert_peer(peer(number, None)).await.unwrap();
    }
    (tunnel, stop)
}

async fn all_up(tunnel: &Tunnel, start: Instant) {
    let alive = || tunnel.snapshot().peers.values().filter(|peer| peer.echo.alive).count();
    while alive() < usize::try_from(SPOKES).unwrap() {
        assert!(start.elapsed() < BACK_WITHIN, "only {} are up", alive());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_spokes_come_up_and_come_back_after_a_restart() {
    let (mut engines, mut spokes) = (JoinSet::new(), JoinSet::new());
    let (tunnel, stop) = hub("127.0.0.1:0".parse().unwrap(), &mut engines).await;
    let listen = tunnel.local_addr();
    for number in 1..=SPOKES {
        spokes.spawn(spoke(number, listen));
    }
    all_up(&tunnel, Instant::now()).await;
    stop.cancel();
    while engines.join_next().await.is_some() {}
    drop(tunnel);

    // They dial while it adds them.
    let start = Instant::now();
    let (tunnel, _stop) = hub(listen, &mut engines).await;
    all_up(&tunnel, start).await;
}
