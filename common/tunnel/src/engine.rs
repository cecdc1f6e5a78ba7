//! The one task that owns core, carrier and netstack.
//!
//! A turn takes what has come, does what is due, and sends what results; each step has a bound, so
//! that no socket, flow or command queue starves the others. Between turns the engine waits for its
//! token, a command, a datagram, a stream or a deadline.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Event, MTU_RANGE, TunnelCore};
use blueprint_common_types::{WgPublicKey, fill_random};
use ipnetwork::IpNetwork;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::command::Command;
use crate::error::ConnectError;
use crate::flow::Bell;
use crate::handle::{Tunnel, TunnelConfig};
use crate::netstack::{Netstack, NetstackConfig};
use crate::snapshot::{TunnelSnapshot, discards};
use crate::udp::{Carrier, Received};

/// Commands that may wait.
const COMMANDS: usize = 256;
/// Events that a slow receiver may be behind.
const EVENTS: usize = 1024;
/// Datagrams taken in one turn, give or take one bundle.
const DATAGRAMS_PER_TURN: usize = 256;
/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;
/// Age that a snapshot may reach.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(250);
/// Failed receive calls in a row after which the engine does not listen for a while.
const FAILURES_MAX: u32 = 16;
/// How long it does not listen then, so that a socket that always fails costs no processor.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Owner of a tunnel's core, UDP socket and netstack. Does nothing until [`Self::run`].
pub struct Engine {
    core: TunnelCore,
    carrier: Carrier,
    netstack: Netstack,
    bell: Arc<Bell>,
    routes: BTreeMap<WgPublicKey, Vec<IpNetwork>>,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<Event>,
    snapshot: Arc<ArcSwap<TunnelSnapshot>>,
    next_snapshot: Instant,
    is_congested: bool,
    failures: u32,
    deaf_until: Option<Instant>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn bind(config: TunnelConfig) -> io::Result<(Tunnel, Self)> {
        let now = Instant::now();
        let mut seed = [0; 8];
        fill_random(&mut seed)?;
        let carrier = Carrier::bind(config.listen)?;
        let netstack = Netstack::new(
            NetstackConfig {
                addresses: config.core.addresses,
                mtu: config.core.mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end()),
                max_flows: config.max_flows,
                buffer_bytes: config.buffer_bytes,
                backlog: config.backlog,
                seed: u64::from_ne_bytes(seed),
            },
            now,
        );
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let snapshot = Arc::new(ArcSwap::from_pointee(TunnelSnapshot::new(now)));
        let tunnel = Tunnel {
            commands: sender,
            events: events.clone(),
            snapshot: Arc::clone(&snapshot),
            local_addr: carrier.local_addr()?,
        };
        let engine = Self {
            core: TunnelCore::new(config.core, now),
            carrier,
            bell: netstack.bell(),
            netstack,
            routes: BTreeMap::new(),
            commands,
            events,
            snapshot,
            next_snapshot: now,
            is_congested: false,
            failures: 0,
            deaf_until: None,
        };
        Ok((tunnel, engine))
    }

    /// Runs the tunnel until `stop` is cancelled, then resets every connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends every connection without a word to its peer.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut alarm = Alarm::new();
        while !stop.is_cancelled() {
            if self.turn() {
                tokio::task::yield_now().await;
            } else {
                self.wait(&stop, &mut alarm).await;
            }
        }
        let now = Instant::now();
        let Self { netstack, core, .. } = &mut self;
        netstack.shut(now, &mut |packet| core.handle_packet(packet, now));
        self.flush();
        self.take_snapshot(now);
    }

    async fn wait(&mut self, stop: &CancellationToken, alarm: &mut Alarm) {
        // A socket that takes no more stops the flows: they go on when it is writable again.
        let flows = self.netstack.poll_timeout().filter(|_| !self.is_congested);
        let deadlines = [self.core.poll_timeout(), flows, self.deaf_until];
        let deadline = deadlines.into_iter().flatten().fold(self.next_snapshot, Instant::min);
        alarm.set(deadline);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = alarm.ring() => {}
            () = self.carrier.readable(), if self.deaf_until.is_none() => {}
            () = self.bell.rung() => {}
            () = self.carrier.writable(), if self.is_congested => {}
            Some(command) = self.commands.recv() => self.handle_command(command, Instant::now()),
        }
    }

    /// Does one bounded share of everything that is due; true where something is left.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let mut is_busy = self.receive(now);
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else { break };
            self.handle_command(command, now);
        }
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        if self.is_congested {
            self.flush();
        }
        if !self.is_congested {
            let Self { netstack, core, .. } = self;
            is_busy |= netstack.handle_work(now, &mut |packet| core.handle_packet(packet, now));
        }
        self.flush();
        self.publish_events();
        if self.next_snapshot <= now {
            self.take_snapshot(now);
        }
        is_busy
    }

    /// Takes datagrams until there are none or the turn's share is reached; true in the latter case.
    fn receive(&mut self, now: Instant) -> bool {
        if self.deaf_until.is_some_and(|until| until > now) {
            return false;
        }
        self.deaf_until = None;
        let mut taken = 0;
        while taken < DATAGRAMS_PER_TURN {
            let core = &mut self.core;
            match self.carrier.receive(|from, datagram| core.handle_datagram(from, datagram, now)) {
                Received::Nothing => return false,
                Received::Datagrams(count) => {
                    taken += count.max(1);
                    self.failures = 0;
                }
                Received::Failed => {
                    taken += 1;
                    self.failures += 1;
                    if self.failures >= FAILURES_MAX {
                        (self.failures, self.deaf_until) = (0, Some(now + FAILURE_PAUSE));
                        debug!("receiving failed repeatedly, pausing");
                        return false;
                    }
                }
            }
            while let Some(packet) = self.core.poll_packet() {
                let buffer = self.netstack.handle_packet(packet, now);
                self.core.recycle(buffer);
            }
        }
        true
    }

    fn flush(&mut self) {
        while let Some(transmit) = self.core.poll_transmit() {
            self.carrier.enqueue(transmit);
        }
        let core = &mut self.core;
        self.is_congested = !self.carrier.flush(|buffer| core.recycle(buffer));
    }

    fn publish_events(&mut self) {
        while let Some(event) = self.core.poll_event() {
            log_event(&event);
            // Fails only where nobody listens.
            let _ = self.events.send(event);
        }
    }

    fn take_snapshot(&mut self, now: Instant) {
        self.next_snapshot = now + SNAPSHOT_EVERY;
        let stats = self.core.stats().clone();
        let peers = self.routes.keys().filter_map(|key| Some((*key, self.core.peer_stats(key)?))).collect();
        self.snapshot.store(Arc::new(TunnelSnapshot {
            taken_at: now,
            peers,
            discards: discards(&stats, self.netstack.refusals(), self.carrier.errors()),
            stats,
            flows: self.netstack.flow_count(),
        }));
    }

    /// Carries a command out. An answer that nobody waits for is dropped.
    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::UpsertPeer { peer, reply } => {
                let (key, prefixes) = (peer.public_key, peer.allowed_ips.clone());
                let outcome = self.core.upsert_peer(*peer, now);
                if outcome.is_ok() {
                    self.routes.insert(key, prefixes);
                }
                let _ = reply.send(outcome);
            }
            Command::RemovePeer { key, reply } => {
                self.remove_peer(&key, now);
                let _ = reply.send(());
            }
            Command::StartHandshake { key, reply } => {
                self.core.start_handshake(&key, now);
                let _ = reply.send(());
            }
            Command::SetEndpoint { key, endpoint, reply } => {
                self.core.set_endpoint(&key, endpoint, now);
                let _ = reply.send(());
            }
            Command::ResetReplayFloor { key, reply } => {
                let _ = reply.send(self.core.reset_replay_floor(&key, now));
            }
            Command::SetPolicy { policy, reply } => {
                self.core.set_policy(policy);
                let _ = reply.send(());
            }
            Command::Connect { remote, reply } => {
                let is_routed = self.routes.values().flatten().any(|prefix| prefix.contains(remote.ip()));
                let outcome =
                    if is_routed { self.netstack.connect(remote, now) } else { Err(ConnectError::NoRoute) };
                let _ = reply.send(outcome);
            }
            Command::Listen { port, reply } => {
                let _ = reply.send(self.netstack.listen(port));
            }
        }
    }

    /// Resets the connections with a peer, and then forgets it, so that it still hears of the resets.
    fn remove_peer(&mut self, key: &WgPublicKey, now: Instant) {
        let removed = self.routes.remove(key).unwrap_or_default();
        let Self { netstack, core, routes, .. } = self;
        let is_with_it = |ip| longest(&removed, ip) > longest(routes.values().flatten(), ip);
        netstack.reset(is_with_it, now, &mut |packet| core.handle_packet(packet, now));
        self.flush();
        self.core.remove_peer(key);
    }
}

/// Length of the longest of the prefixes that hold `ip`.
fn longest<'a>(prefixes: impl IntoIterator<Item = &'a IpNetwork>, ip: IpAddr) -> Option<u8> {
    prefixes.into_iter().filter(|prefix| prefix.contains(ip)).map(IpNetwork::prefix).max()
}

fn log_event(event: &Event) {
    match event {
        Event::Handshake { peer } => debug!(?peer, "handshake completed"),
        Event::Roam { peer, endpoint } => info!(?peer, %endpoint, "peer moved"),
        Event::EchoLost { peer } => info!(?peer, "data plane lost"),
        Event::EchoBack { peer } => info!(?peer, "data plane answers"),
    }
}

/// A timer that is moved only where it has to ring earlier: ringing once for nothing is cheaper than
/// moving it with every packet.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    set_for: Option<Instant>,
}

impl Alarm {
    fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), set_for: None }
    }

    /// Makes it ring at `at` or before.
    fn set(&mut self, at: Instant) {
        if self.set_for.is_none_or(|set_for| at < set_for) {
            self.sleep.as_mut().reset(at.into());
            self.set_for = Some(at);
        }
    }

    async fn ring(&mut self) {
        self.sleep.as_mut().await;
        self.set_for = None;
    }
}
