//! The task that drives the TCP/IP stack of this process: packets from the packet threads in, sealed datagrams out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::offload::{Superpacket, VnetHeader};
use blueprint_common_tunnel_core::{Discard, Notice, RUN_SLACK_BYTES, Sealer, Tally, Traffic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::control::Alarm;
use super::inbox::Inbox;
use super::outgoing::Outgoing;
use super::shared::Shared;
use crate::command::StackCommand;
use crate::device::Sink;
use crate::error::ConnectError;
use crate::flow::Bell;
use crate::netstack::{Netstack, Refusals};

/// Batches of packets taken in one turn.
const BATCHES_PER_TURN: usize = 4;
/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;
/// Protocol number of TCP, and where its checksum is in its header.
const TCP: u8 = 6;
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
}

impl Stack {
    pub(crate) fn new(
        netstack: Netstack,
        inbox: Arc<Inbox>,
        commands: mpsc::Receiver<StackCommand>,
        shared: Arc<Shared>,
        counts: Arc<StackCounts>,
    ) -> Self {
        Self { bell: netstack.bell(), netstack, inbox, commands, egress: Egress::new(shared), counts }
    }

    /// Runs until `stop` is cancelled, then resets every connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends every connection without a word to its peer.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut alarm = Alarm::new();
        while !stop.is_cancelled() {
            if self.turn() {
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
                Some(command) = self.commands.recv() => self.handle_command(command, Instant::now()),
            }
        }
        self.netstack.shut(Instant::now(), &mut self.egress);
        self.egress.flush(Instant::now());
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
                self.netstack.reset(is_with_it, now, &mut self.egress);
                self.egress.flush(now);
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
    /// One packet of a segment that had to be cut.
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
            segment: vec![0; mtu + RUN_SLACK_BYTES],
            outgoing: Outgoing::new(),
            tally,
        }
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
            let route = match tables.route(packet) {
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
            // Smoltcp knows one MTU for all peers; what the way to this one does not take is cut where a kernel would.
            let narrow = (packet.len() > sealer.mtu()).then(|| narrowed(packet, sealer.mtu()));
            let whole = VnetHeader::default();
            let Some(cut) = Superpacket::parse(&narrow.flatten().unwrap_or(whole), packet).ok() else {
                self.tally.discard(Discard::MalformedPacket);
                continue;
            };
            if cut.largest_len() > sealer.mtu() {
                self.tally.discard(Discard::TooBig);
                continue;
            }
            if sealer.note_len(cut.largest_len()) {
                self.shared.tell(Notice::Large { slot: route.slot() }, &self.tally);
            }
            for number in 0..cut.segments() {
                let padded = sealer.padded_len(cut.segment_len(number));
                let plaintext = if narrow.is_some() {
                    let len = cut.write(number, &mut self.segment);
                    self.segment.get_mut(len..padded).unwrap_or_default().fill(0);
                    self.segment.get(..padded)
                } else {
                    self.plain.get(at..at + padded)
                };
                let plaintext = plaintext.unwrap_or_default();
                match sealer.seal(plaintext, self.outgoing.room(), now) {
                    Ok(len) => self.outgoing.commit(&to, len),
                    Err(Discard::ExpiredSession) => {
                        let packet = plaintext.get(..cut.segment_len(number)).unwrap_or_default().to_vec();
                        self.shared.tell(Notice::Unsent { slot: route.slot(), packet }, &self.tally);
                    }
                    Err(discard) => self.tally.discard(discard),
                }
            }
        }
        drop(sealer);
        self.plain.clear();
        let sent = self.outgoing.flush(&shared.wire, 0, false);
        self.tally.add(Traffic::TxDatagrams, sent);
    }
}

/// How a TCP segment that is too large for its way is to be cut; `None` for everything else.
fn narrowed(packet: &[u8], mtu: usize) -> Option<VnetHeader> {
    let (gso_type, ip_len, protocol) = match packet.first()? >> 4 {
        4 => (VnetHeader::GSO_TCPV4, usize::from(packet.first()? & 0x0f) * 4, packet.get(9)?),
        _ => (VnetHeader::GSO_TCPV6, 40, packet.get(6)?),
    };
    let header_len = ip_len + usize::from(packet.get(ip_len + 12)? >> 4) * 4;
    (*protocol == TCP).then_some(VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type,
        hdr_len: u16::try_from(header_len).ok()?,
        gso_size: u16::try_from(mtu.checked_sub(header_len)?).ok()?,
        csum_start: u16::try_from(ip_len).ok()?,
        csum_offset: TCP_CHECKSUM_AT,
    })
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
