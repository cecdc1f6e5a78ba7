//! The threads of a tunnel, and what starts and ends them.
//!
//! ```text
//!   rx-N      UDP -> open, filter, policy -> device | stack | sealed again for another peer -> UDP
//!   tx-N      device -> sparse flows first -> split, seal -> UDP
//!   control   handshakes, timers, echoes, commands: owns the core, publishes its tables
//!   stack     a task, where there is no device: the TCP/IP of this process
//!   quic      links of QUIC (`carrier`): what comes goes the way of rx, what leaves waits in outboxes; the first of these
//!             threads reads the port that QUIC shares, once there are links (`beside`)
//! ```
//!
//! Plain threads, each from one system call to the next without handing a packet on: over UDP nothing on the way of a
//! packet waits for another thread, and one flow is always one thread's, so that its order stays. Two kinds of packets wait for a
//! bounded time: tx's for room in the outbox of a link, and those of the port that QUIC shares for turns of QUIC.

mod beside;
mod control;
mod fair;
mod inbox;
mod outgoing;
mod receive;
mod shared;
mod stack;
mod threads;
mod transmit;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::TunnelCore;
use blueprint_common_tunnel_core::offload::MergeLimits;
use blueprint_common_types::fill_random;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::carrier::is_wireguard;
use crate::error::BindError;
use crate::handle::{Ends, Tunnel, TunnelConfig};
use crate::interface::{self, Interface};
use crate::netstack::{Netstack, NetstackConfig};
use crate::snapshot::TunnelSnapshot;
use crate::sys::poll::EventFd;
use crate::sys::tun::TunQueue;
use crate::sys::udp::UdpSocket;
use control::Control;
use inbox::Inbox;
use receive::{Local, Receiver, Stranger};
use stack::{Stack, StackCounts};
use threads::{Ending, RX_SLICE, start};
use transmit::Transmitter;

pub(crate) use receive::Local as LocalSide;
pub(crate) use receive::Receiver as LinkReceiver;
pub(crate) use shared::Shared;
pub(crate) use threads::{SLICE, shorten_slice};
pub(crate) use wire::Wire;

/// Commands that may wait.
const COMMANDS: usize = 256;
/// Events that a slow receiver may be behind.
const EVENTS: usize = 1024;
/// Owner of a tunnel's threads. Does nothing until [`Self::run`].
pub struct Engine {
    control: Control,
    shared: Arc<Shared>,
    local: Local,
    transmitters: Vec<Transmitter>,
    stack: Option<Stack>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn bind(config: TunnelConfig) -> Result<(Tunnel, Self), BindError> {
        let now = Instant::now();
        let mut seed = [0; 8];
        fill_random(&mut seed).map_err(BindError::System)?;
        let seed = u64::from_ne_bytes(seed);
        let ports = bind_ports(&config)?;
        let mut core_config = config.core.clone();
        core_config.answers_echoes = config.interface == Interface::Netstack;
        let (own, mtu) = (core_config.addresses, core_config.mtu);
        let device = match &config.interface {
            Interface::Netstack => None,
            Interface::Tun(settings) => Some(interface::open(settings, &core_config, 1)?),
        };
        let core = TunnelCore::new(core_config, now);
        let tables = core.tables();
        let stop = EventFd::new().map_err(BindError::System)?;
        let (shared, notices) = Shared::new(tables, Wire::new(ports), stop);
        let shared = Arc::new(shared);

        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let snapshot = Arc::new(ArcSwap::from_pointee(TunnelSnapshot::new(now)));
        let counts = Arc::new(StackCounts::default());
        let (local, ends, transmitters, stack) = match device {
            Some(device) => {
                let (local, transmitters) = local_of_device(device.queues, device.limits, &shared, seed)?;
                (local, Ends::Kernel { own, name: device.name, cuts: Arc::default() }, transmitters, None)
            }
            None => {
                let netstack = Netstack::new(
                    NetstackConfig {
                        addresses: own,
                        mtu,
                        max_flows: config.max_flows,
                        buffer_bytes: config.buffer_bytes,
                        growth_bytes: config.growth_bytes,
                        backlog: config.backlog,
                        seed,
                    },
                    now,
                );
                let (sender, receiver) = mpsc::channel(COMMANDS);
                let inbox = Arc::new(Inbox::default());
                let (to_stack, shared, counts) =
                    (Arc::clone(&inbox), Arc::clone(&shared), Arc::clone(&counts));
                let stack = Stack::new(netstack, to_stack, receiver, shared, counts);
                (Local::Stack(inbox), Ends::Stack(sender), Vec::new(), Some(stack))
            }
        };
        let tunnel = Tunnel {
            commands: commands_in,
            ends: Arc::new(ends),
            events: events.clone(),
            snapshot: Arc::clone(&snapshot),
            local_addr: shared.wire.local_addr(0).map_err(BindError::System)?,
            shared: Arc::clone(&shared),
            local: local.clone(),
        };
        let control = Control {
            core,
            shared: Arc::clone(&shared),
            commands,
            notices,
            events,
            snapshot,
            stack: counts,
            probes: HashMap::new(),
            next_probe: 0,
            next_snapshot: now,
            answers: Vec::new(),
        };
        Ok((tunnel, Self { control, shared, local, transmitters, stack }))
    }

    /// Runs the tunnel until `stop` is cancelled, then resets every connection. It ends by itself only where one
    /// of its threads does, which none should.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the threads within a fraction of a second, and every connection without a word to its
    /// peer.
    pub async fn run(self, stop: CancellationToken) {
        let Self { control, shared, local, transmitters, stack } = self;
        // Ends the threads on every way out.
        let queues = transmitters.iter().map(Transmitter::queue).collect();
        let mut ending = Ending::new(Arc::clone(&shared), queues);
        let (stop_control, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        let ended = CancellationToken::new();
        threads.extend(start("tunnel-control", &ended, move || run_control(control, stopped)));
        for port in 0..shared.wire.ports() {
            let receiver = Receiver::new(Arc::clone(&shared), &local, 0, shared.tally());
            let number = u8::try_from(port).unwrap_or(0);
            let stranger = (number > 0).then(|| stranger(&shared));
            threads.extend(start("tunnel-rx", &ended, move || {
                shorten_slice(RX_SLICE);
                receiver.run(number, 0, stranger);
            }));
        }
        let queues = transmitters.len();
        for transmitter in transmitters {
            threads.extend(start("tunnel-tx", &ended, move || {
                shorten_slice(SLICE);
                transmitter.run();
            }));
        }
        let has_all = threads.len() > shared.wire.ports() + queues;
        let watched = async {
            if has_all {
                ended.cancelled().await;
                error!("a thread of the tunnel ended by itself");
            }
        };
        match stack {
            Some(stack) => {
                let child = stop.child_token();
                tokio::select! {
                    () = stack.run(child) => {}
                    () = watched => {}
                }
            }
            None => tokio::select! {
                () = stop.cancelled() => {}
                () = watched => {}
            },
        }
        threads.extend(ending.begin());
        let _ = stop_control.send(true);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        let _ = joined.await;
    }
}

/// One thread per queue of a device reads it; all write into the first, where order is one.
fn local_of_device(
    queues: Vec<TunQueue>,
    limits: MergeLimits,
    shared: &Arc<Shared>,
    seed: u64,
) -> Result<(Local, Vec<Transmitter>), BindError> {
    let queues: Vec<_> = queues.into_iter().map(Arc::new).collect();
    let transmitter = |(shard, queue): (usize, &Arc<_>)| {
        Transmitter::new(Arc::clone(shared), Arc::clone(queue), shard, seed)
    };
    let transmitters = queues.iter().enumerate().map(transmitter).collect();
    let first = queues.first().ok_or(BindError::System(io::ErrorKind::NotFound.into()))?;
    Ok((Local::Device(Arc::clone(first), limits), transmitters))
}

/// Hands what is not WireGuard to QUIC, where QUIC shares the port.
fn stranger(shared: &Arc<Shared>) -> Stranger {
    let shared = Arc::clone(shared);
    Box::new(move |from, ecn, datagrams, stride| {
        let quic = shared.wire.quic().filter(|_| !is_wireguard(datagrams));
        quic.is_some_and(|quic| {
            // What finds no room is lost, and counted there.
            let _ = quic.offer(from.remote, from.local, ecn, datagrams, stride);
            true
        })
    })
}

fn run_control(control: Control, stopped: watch::Receiver<bool>) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(control.run(stopped)),
        Err(error) => error!(%error, "cannot run the tunnel's control"),
    }
}

fn bind_ports(config: &TunnelConfig) -> Result<Vec<Vec<UdpSocket>>, BindError> {
    let addresses: Vec<SocketAddr> = std::iter::once(config.listen).chain(config.listen_also).collect();
    let bind = |address: SocketAddr| {
        let socket =
            UdpSocket::bind(address, false).map_err(|source| BindError::Socket { address, source })?;
        Ok(vec![socket])
    };
    addresses.into_iter().map(bind).collect()
}
