//! The thread that owns the core: handshakes, timers, echoes and commands. Packets pass it by.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Event, TunnelCore};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Sleep;
use tracing::{debug, info};

use super::shared::{Notices, Shared};
use super::stack::StackCounts;
use crate::command::Command;
use crate::snapshot::{PeerTable, TunnelSnapshot, discards};

/// Commands and notices taken in one turn.
const PER_TURN: usize = 256;
/// What WireGuard adds to an inner packet.
const DATA_OVERHEAD_BYTES: usize = 32;
/// Age that a snapshot may reach, and what one peer takes it to, so that many cost no more than few: 4 s with 10,000.
/// Who has to know at once that a peer is lost or back is told by events.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(250);
const SNAPSHOT_PER_PEER: Duration = Duration::from_micros(400);

/// The thread's state.
pub(crate) struct Control {
    pub(crate) core: TunnelCore,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) notices: Notices,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) snapshot: Arc<ArcSwap<TunnelSnapshot>>,
    pub(crate) stack: Arc<StackCounts>,
    pub(crate) probes: HashMap<u64, (Instant, oneshot::Sender<Duration>)>,
    pub(crate) next_probe: u64,
    pub(crate) next_snapshot: Instant,
    /// Told once the tables that a command changed are in use.
    pub(crate) answers: Vec<Box<dyn FnOnce() + Send>>,
}

impl Control {
    /// Runs until the tunnel stops, or the engine is dropped.
    pub(crate) async fn run(mut self, mut stop: tokio::sync::watch::Receiver<bool>) {
        let mut alarm = Alarm::new();
        while !*stop.borrow() && !self.shared.is_stopped() {
            alarm.set(self.core.poll_timeout().map_or(self.next_snapshot, |at| at.min(self.next_snapshot)));
            tokio::select! {
                biased;
                changed = stop.changed() => if changed.is_err() {
                    // The engine was dropped instead of stopped.
                    break;
                },
                () = alarm.ring() => {}
                Some(notice) = self.notices.next() => self.core.handle_notice(notice, now()),
                Some(command) = self.commands.recv() => self.handle_command(command, now()),
            }
            self.send();
            self.turn();
        }
        self.take_snapshot(now());
    }

    fn turn(&mut self) {
        let now = now();
        // Whoever adds ten thousand peers one after the other waits for a handshake each time, not for 256.
        for _ in 0..PER_TURN {
            if !self.commands.is_empty() {
                break;
            }
            let Some(notice) = self.notices.try_next() else { break };
            self.core.handle_notice(notice, now);
            self.send();
        }
        for _ in 0..PER_TURN {
            let Ok(command) = self.commands.try_recv() else { break };
            self.handle_command(command, now);
            self.send();
        }
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        self.send();
        self.publish();
        while let Some(event) = self.core.poll_event() {
            self.handle_event(event, now);
        }
        if self.next_snapshot <= now {
            self.take_snapshot(now);
        }
    }

    /// Sends what the core wants sent, at once: packet threads count on with the same session, and what is sent late
    /// is too old for the other end's replay window.
    fn send(&mut self) {
        while let Some(transmit) = self.core.poll_transmit() {
            self.shared.wire.send(0, &transmit.to, &transmit.payload, transmit.payload.len(), Duration::ZERO);
            self.core.recycle(transmit.payload);
        }
    }

    /// Puts changed tables in use, and only then answers the commands that changed them.
    fn publish(&mut self) {
        if let Some(tables) = self.core.poll_tables() {
            self.shared.tables.store(Arc::new(tables));
        }
        for answer in self.answers.drain(..) {
            answer();
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match &event {
            Event::Handshake { peer } => debug!(?peer, "handshake completed"),
            Event::Roam { peer, endpoint } => info!(?peer, %endpoint, "peer moved"),
            Event::EchoLost { peer } => info!(?peer, "data plane lost"),
            Event::EchoBack { peer } => info!(?peer, "data plane answers"),
            Event::Probed { token, .. } => {
                if let Some((sent_at, reply)) = self.probes.remove(token) {
                    let _ = reply.send(now.saturating_duration_since(sent_at));
                }
                return;
            }
        }
        // Fails only where nobody listens.
        let _ = self.events.send(event);
    }

    fn take_snapshot(&mut self, now: Instant) {
        let peers = PeerTable::new(self.core.all_stats(now));
        let count = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        self.next_snapshot = now + SNAPSHOT_EVERY.max(SNAPSHOT_PER_PEER.saturating_mul(count));
        self.probes.retain(|_, (_, reply)| !reply.is_closed());
        let mut stats = self.core.stats().clone();
        self.shared.add_tallies(&mut stats);
        self.snapshot.store(Arc::new(TunnelSnapshot {
            taken_at: now,
            peers,
            discards: discards(&stats, self.stack.refusals(), &self.shared.wire),
            stats,
            flows: self.stack.flows.load(Ordering::Relaxed),
            links: self.shared.wire.links(),
        }));
    }

    /// Carries a command out. An answer that nobody waits for is dropped.
    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::UpsertPeer { peer, reply } => {
                let outcome = self.core.upsert_peer(*peer, now);
                self.answer(move || drop(reply.send(outcome)));
            }
            Command::RemovePeer { key, reply } => {
                self.core.remove_peer(&key);
                self.answer(move || {
                    let _ = reply.send(());
                });
            }
            Command::StartHandshake { key, reply } => {
                self.core.start_handshake(&key, now);
                let _ = reply.send(());
            }
            Command::SetEndpoint { key, endpoint, reply } => {
                self.core.set_endpoint(&key, endpoint, now);
                let _ = reply.send(());
            }
            Command::Switch { key, endpoint, reply } => {
                let max = self.shared.wire.max_datagram(&endpoint);
                let ceiling =
                    max.map(|max| u16::try_from(max.saturating_sub(DATA_OVERHEAD_BYTES)).unwrap_or(u16::MAX));
                self.core.switch(&key, endpoint, ceiling, now);
                let _ = reply.send(());
            }
            Command::Greet { key, endpoint, reply } => {
                self.core.greet(&key, &endpoint, now);
                let _ = reply.send(());
            }
            Command::ResetReplayFloor { key, reply } => {
                let _ = reply.send(self.core.reset_replay_floor(&key, now));
            }
            Command::SetPolicy { policy, reply } => {
                self.core.set_policy(policy);
                self.answer(move || {
                    let _ = reply.send(());
                });
            }
            Command::Probe { key, endpoint, size, reply } => {
                self.next_probe = self.next_probe.wrapping_add(1);
                if self.core.probe(&key, &endpoint, size, self.next_probe, now) {
                    self.probes.insert(self.next_probe, (now, reply));
                }
            }
        }
    }

    fn answer(&mut self, answer: impl FnOnce() + Send + 'static) {
        self.answers.push(Box::new(answer));
    }
}

fn now() -> Instant {
    Instant::now()
}

/// A timer that is moved only where it has to ring earlier: ringing once for nothing is cheaper than
/// moving it with every packet.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    set_for: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), set_for: None }
    }

    /// Makes it ring at `at` or before.
    pub(crate) fn set(&mut self, at: Instant) {
        if self.set_for.is_none_or(|set_for| at < set_for) {
            self.sleep.as_mut().reset(at.into());
            self.set_for = Some(at);
        }
    }

    /// Returns once it rings.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn ring(&mut self) {
        self.sleep.as_mut().await;
        self.set_for = None;
    }
}
