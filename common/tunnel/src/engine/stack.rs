//! The task that drives the TCP/IP stack of this process: packets from the packet threads in, sealed datagrams out.
//!
//! A panic costs the connection that it came from and what was gathered or handed over at that moment; the task goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::offload::{Superpacket, VnetHeader};
use blueprint_common_tunnel_core::{Discard, MTU_RANGE, Notice, RUN_SLACK_BYTES, Sealer, Tally, Traffic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::control::Alarm;
use super::inbox::Inbox;
use super::outgoing::Outgoing;
use super::shared::{Shared, Telling};
use crate::command::StackCommand;
use crate::device::Sink;
use crate::error::ConnectError;
use crate::flow::Bell;
use crate::netstack::{Netstack, Refusals};

/// Batches of packets taken in one turn.
const BATCHES_PER_TURN: usize = 4;
/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;
/// Where the checksum is in a TCP header.
const TCP_CHECKSUM_AT: u16 = 16;
/// Packets gathered before they are sealed.
const PLAIN_BYTES: usize = 128 << 10;

/// What the rest of the process may read of the stack.
#[derive(Debug, Default)]
pub(crate) struct StackCounts {
    pub(crate) flows: AtomicUsize,
    refusals: ArcSwap<Refusals>,
}

impl StackCounts {
    pub(crate) fn refusals(&self) -> Refusals {
        **self.refusals.load()
    }
}

/// The task's state.
pub(crate) struct Stack {
    netstack: Netstack,
    bell: Arc<Bell>,
    inbox: Arc<Inbox>,
    commands: mpsc::Receiver<StackCommand>,
    egress: Egress,
    counts: Arc<StackCounts>,
    telling: Telling,
}

impl Stack {
    pub(crate) fn new(
        netstack: Netstack,
        inbox: Arc<Inbox>,
        commands: mpsc::Receiver<StackCommand>,
        shared: Arc<Shared>,
        counts: Arc<StackCounts>,
    ) -> Self {
        let (bell, egress) = (netstack.bell(), Egress::new(shared));
        Self { netstack, bell, inbox, commands, egress, counts, telling: Telling::default() }
    }

    /// Runs until `stop` is cancelled, then resets every connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends every connection without a word to its peer.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut alarm = Alarm::new();
        while !stop.is_cancelled() {
            // After a fault something is left.
            if self.guard(Self::turn).unwrap_or(true) {
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(at) = self.netstack.poll_timeout() {
                alarm.set(at);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.inbox.rung() => {}
                () = self.bell.rung() => {}
                () = alarm.ring(), if self.netstack.poll_timeout().is_some() => {}
                Some(command) = self.commands.recv() => {
                    let _ = self.guard(|stack| stack.handle_command(command, Instant::now()));
                }
            }
        }
        self.insist(|stack, now| stack.netstack.shut(now, &mut stack.egress));
    }

    /// Does `work`; `None` where a fault of ours ended it.
    fn guard<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self))).ok();
        if done.is_none() {
            let now = Instant::now();
            self.egress.renew();
            self.egress.tally.discard(Discard::OwnPanic);
            // The state of that connection may be as broken as what it did; it has left the table by then.
            let _ = catch_unwind(AssertUnwindSafe(|| self.netstack.end_at_work(now)));
            if self.telling.is_due(now) {
                error!("a fault of this program ended a connection of the tunnel; please report it");
            }
        }
        done
    }

    /// Does `work` for each flow that it is about, and sends what it says: a fault of ours ends one of them, and it goes on.
    fn insist(&mut self, mut work: impl FnMut(&mut Self, Instant)) {
        let mut work = |stack: &mut Self| {
            let now = Instant::now();
            work(stack, now);
            stack.egress.flush(now);
        };
        for _ in 0..=self.netstack.flow_count() {
            if self.guard(&mut work).is_some() {
                return;
            }
        }
    }

    /// Does one bounded share of everything that is due; true where something is left.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let mut is_busy = false;
        for number in 0..BATCHES_PER_TURN {
            let Some(mut batch) = self.inbox.take() else { break };
            self.netstack.handle_batch(batch.iter_mut(), now, &mut self.egress);
            self.inbox.recycle(batch);
            is_busy = number + 1 == BATCHES_PER_TURN;
        }
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else { break };
            self.handle_command(command, now);
        }
        is_busy |= self.netstack.handle_work(now, &mut self.egress);
        self.egress.flush(now);
        self.counts.flows.store(self.netstack.flow_count(), Ordering::Relaxed);
        let refusals = self.netstack.refusals();
        if self.counts.refusals() != refusals {
            self.counts.refusals.store(Arc::new(refusals));
        }
        is_busy
    }

    /// Carries a command out. An answer that nobody waits for is dropped.
    fn handle_command(&mut self, command: StackCommand, now: Instant) {
        let is_routed =
            |remote: &std::net::SocketAddr| self.egress.shared.tables.load().is_routed(remote.ip());
        match command {
            StackCommand::Connect { remote, reply } => {
                let outcome = if is_routed(&remote) {
                    self.netstack.connect(remote, now)
                } else {
                    Err(ConnectError::NoRoute)
                };
                let _ = reply.send(outcome);
            }
            StackCommand::Listen { port, reply } => {
                let _ = reply.send(self.netstack.listen(port));
            }
            StackCommand::ConnectUdp { remote, reply } => {
                let outcome = if is_routed(&remote) {
                    self.netstack.connect_udp(remote, now)
                } else {
                    Err(ConnectError::NoRoute)
                };
                let _ = reply.send(outcome);
            }
            StackCommand::ListenUdp { port, reply } => {
                let _ = reply.send(self.netstack.listen_udp(port));
            }
            StackCommand::ResetPeer { key, reply } => {
                let tables = self.egress.shared.tables.load_full();
                let is_with_it = |ip| tables.holder(ip) == Some(key);
                self.insist(|stack, now| stack.netstack.reset(is_with_it, now, &mut stack.egress));
                let _ = reply.send(());
            }
        }
    }
}

/// Gathers what the stack sends, and seals it run by run.
struct Egress {
    shared: Arc<Shared>,
    plain: Vec<u8>,
    /// Where each packet ends, and where its room does.
    packets: Vec<(usize, usize)>,
    mtu: usize,
    /// One part of a packet that is too long for the way.
    segment: Vec<u8>,
    outgoing: Outgoing,
    tally: Arc<Tally>,
}

impl Egress {
    fn new(shared: Arc<Shared>) -> Self {
        let tally = shared.tally();
        let mtu = shared.tables.load().mtu();
        Self {
            shared,
            plain: Vec::with_capacity(PLAIN_BYTES),
            packets: Vec::with_capacity(256),
            mtu,
            segment: vec![0; usize::from(*MTU_RANGE.end()) + RUN_SLACK_BYTES],
            outgoing: Outgoing::new(),
            tally,
        }
    }

    /// Forgets what is half done: every packet that was gathered and has not left.
    fn renew(&mut self) {
        self.plain.clear();
        self.packets.clear();
        self.outgoing = Outgoing::new();
    }

    /// Seals and sends everything that was gathered.
    fn flush(&mut self, now: Instant) {
        if self.packets.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let tables = shared.tables.load();
        let mut sealer: Option<(u32, Sealer<'_>)> = None;
        let mut start = 0;
        self.tally.add(Traffic::Local, self.packets.len());
        for (end, room_end) in std::mem::take(&mut self.packets) {
            let at = std::mem::replace(&mut start, room_end);
            let Some(packet) = self.plain.get(at..end) else { break };
            let route = match tables.route(packet, now) {
                Ok(route) => route,
                Err(discard) => {
                    self.tally.discard(discard);
                    continue;
                }
            };
            if !matches!(&sealer, Some((slot, _)) if *slot == route.slot()) {
                drop(sealer.take());
                sealer = Some((route.slot(), route.lock()));
            }
            let Some((_, sealer)) = &mut sealer else { continue };
            let Some(to) = sealer.endpoint() else {
                self.tally.discard(Discard::NoEndpoint);
                continue;
            };
            if sealer.note_len(packet.len().min(sealer.mtu())) {
                self.shared.tell(Notice::Large { slot: route.slot() }, &self.tally);
            }
            if packet.len() > sealer.mtu() {
                // The stack learnt its segments' size at the start of the flow; the way has become narrower since.
                let Some(parts) = cut(packet, sealer.mtu()) else {
                    self.tally.discard(Discard::TooBig);
                    continue;
                };
                for number in 0..parts.segments() {
                    let len = parts.write(number, &mut self.segment);
                    let padded = sealer.padded_len(len);
                    if let Some(padding) = self.segment.get_mut(len..padded) {
                        padding.fill(0);
                    }
                    let plaintext = self.segment.get(..padded).unwrap_or_default();
                    match sealer.seal(plaintext, self.outgoing.room(), now) {
                        Ok(len) => self.outgoing.commit(&to, len),
                        Err(Discard::ExpiredSession) => {
                            let part = self.segment.get(..len).unwrap_or_default();
                            self.shared.wait(route, part, now, &self.tally);
                        }
                        Err(discard) => self.tally.discard(discard),
                    }
                }
                continue;
            }
            let padded = at + sealer.padded_len(end - at);
            let plaintext = self.plain.get(at..padded).unwrap_or_default();
            match sealer.seal(plaintext, self.outgoing.room(), now) {
                Ok(len) => self.outgoing.commit(&to, len),
                Err(Discard::ExpiredSession) => {
                    self.shared.wait(route, packet, now, &self.tally);
                }
                Err(discard) => self.tally.discard(discard),
            }
        }
        drop(sealer);
        self.plain.clear();
        let sent = self.outgoing.flush(&shared.wire, 0, None);
        self.tally.add(Traffic::TxDatagrams, sent);
    }
}

/// Cuts a TCP segment of the stack that is longer than `mtu` into shorter ones; `None` for every other packet.
fn cut(packet: &[u8], mtu: usize) -> Option<Superpacket<'_>> {
    let first = packet.first()?;
    let (gso_type, csum_start) = match first >> 4 {
        4 => (VnetHeader::GSO_TCPV4, u16::from(first & 0xf) * 4),
        _ => (VnetHeader::GSO_TCPV6, 40),
    };
    let parts_of = |gso_size: u16| {
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            gso_size,
            csum_start,
            csum_offset: TCP_CHECKSUM_AT,
            ..VnetHeader::default()
        };
        Superpacket::parse(&header, packet).ok()
    };
    // Of segments with one byte each, the rest is headers.
    let headers = parts_of(1)?.largest_len().checked_sub(1)?;
    parts_of(u16::try_from(mtu.checked_sub(headers)?).ok()?)
}

impl Sink for Egress {
    fn has_room(&mut self) -> bool {
        if self.plain.len() + self.mtu + 16 > PLAIN_BYTES {
            self.flush(Instant::now());
        }
        true
    }

    fn emit<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.plain.len();
        // The padding is zero (paper, section 5.4.6).
        self.plain.resize(start + length.next_multiple_of(16), 0);
        self.packets.push((start + length, self.plain.len()));
        write(self.plain.get_mut(start..start + length).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_segment_is_cut_to_the_mtu_and_anything_else_is_not() {
        let mut packet = vec![0u8; 1420];
        packet[..20]
            .copy_from_slice(&[0x45, 0, 5, 0x8c, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..40].copy_from_slice(&[0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        let parts = cut(&packet, 1302).unwrap();
        assert_eq!((parts.segments(), parts.segment_len(0), parts.segment_len(1)), (2, 1302, 158));
        packet[9] = 17;
        assert!(cut(&packet, 1302).is_none());
    }
}
