//! The thread that reads one queue of the device: split, sealed, sent.
//!
//! It takes everything the queue holds into slots, flow by flow, and serves sparse flows first. One superpacket is
//! split, sealed and sent in one go, straight into the send buffer; small packets that wait together leave together.
//! A panic costs what waits in the slots and in the send buffer, and the thread goes on.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::offload::{
    Superpacket, TOO_BIG_BYTES, VnetHeader, clamp_mss, flow_hash, too_big,
};
use blueprint_common_tunnel_core::{
    Discard, MTU_RANGE, Notice, RUN_SLACK_BYTES, Route, Sealer, Tables, Tally, Traffic,
};
use blueprint_common_types::OverlayLease;
use tracing::{error, info, warn};

use super::fair::FairQueue;
use super::outgoing::Outgoing;
use super::shared::{Shared, Telling};
use crate::sys::sched::Stint;
use crate::sys::tun::TunQueue;

/// Packets or superpackets that wait here; more wait in the device's queue.
const SLOTS: usize = 64;
/// Header and the largest packet there is.
const SLOT_BYTES: usize = VnetHeader::BYTES + 65_536;
/// Bytes served before the device is looked at again: one superpacket.
const ROUND_BYTES: usize = 64 << 10;
/// Work before the thread gives way, reading included; more often, and one TCP stream loses by it.
const STINT: Duration = Duration::from_micros(500);
/// Pause while the device is down.
const DOWN_PAUSE: Duration = Duration::from_millis(50);

/// A packet as it was read: where it lies, and how long it is with its header.
#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    number: usize,
    len: usize,
}

/// One thread's state.
pub(crate) struct Transmitter {
    shared: Arc<Shared>,
    queue: Arc<TunQueue>,
    shard: usize,
    slots: Vec<Box<[u8]>>,
    free: Vec<usize>,
    waiting: FairQueue<Slot>,
    segment: Vec<u8>,
    outgoing: Outgoing,
    tally: Arc<Tally>,
    hash_key: u64,
    /// The device was down when it was last looked at.
    was_down: bool,
    telling: Telling,
    stint: Stint,
}

impl Transmitter {
    pub(crate) fn new(shared: Arc<Shared>, queue: Arc<TunQueue>, shard: usize, hash_key: u64) -> Self {
        let tally = shared.tally();
        Self {
            shared,
            queue,
            shard,
            slots: (0..SLOTS).map(|_| new_slot()).collect(),
            free: (0..SLOTS).rev().collect(),
            waiting: FairQueue::new(),
            segment: vec![0; usize::from(*MTU_RANGE.end()) + RUN_SLACK_BYTES],
            outgoing: Outgoing::new(),
            tally,
            hash_key,
            was_down: false,
            telling: Telling::default(),
            stint: Stint::new(STINT),
        }
    }

    /// The queue that it waits at.
    pub(crate) fn queue(&self) -> Arc<TunQueue> {
        Arc::clone(&self.queue)
    }

    /// Runs until the tunnel stops.
    pub(crate) fn run(mut self) {
        let queue = self.queue();
        let _entered = queue.enter();
        while !self.shared.is_stopped() {
            // What peers share is behind locks that a panic opens.
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                self.renew();
            }
        }
    }

    fn turn(&mut self) {
        if self.waiting.len() == 0 && !self.take(true) {
            self.note_down();
            return;
        }
        let began = Instant::now();
        // What ends a rest mostly comes by itself, and a look for more would be a call for nothing.
        if !self.stint.is_after_rest(began) {
            while self.take(false) {}
        }
        self.serve();
        self.stint.add(began);
    }

    /// Forgets what is half done: every packet that was read and has not left.
    fn renew(&mut self) {
        for slot in &mut self.slots {
            if slot.len() != SLOT_BYTES {
                // Lent where the fault was.
                *slot = new_slot();
            }
        }
        self.free = (0..SLOTS).rev().collect();
        self.waiting = FairQueue::new();
        self.outgoing = Outgoing::new();
        self.tally.discard(Discard::OwnPanic);
        if self.telling.is_due(Instant::now()) {
            error!("a fault of this program ended a run of packets of this machine; please report it");
        }
    }

    /// Tells of a device that nothing can be read of, and pauses.
    fn note_down(&mut self) {
        if !self.queue.is_down() {
            return;
        }
        if !std::mem::replace(&mut self.was_down, true) {
            warn!("the network device is down or gone: nothing of this machine enters the tunnel");
        }
        std::thread::sleep(DOWN_PAUSE);
    }

    /// Takes a packet of the device's queue while there is room, or waits for one; false where it took none.
    fn take(&mut self, waits: bool) -> bool {
        let Some(number) = self.free.last().copied() else { return false };
        let Some(slot) = self.slots.get_mut(number) else { return false };
        let read =
            if waits { self.queue.wait(slot, self.shared.stop.as_fd()) } else { self.queue.read(slot) };
        match read {
            Ok(Some(len)) => {
                if std::mem::take(&mut self.was_down) {
                    info!("the network device is up again");
                }
                let header_len = if self.queue.has_header() { VnetHeader::BYTES } else { 0 };
                let packet = slot.get(header_len..len).unwrap_or_default();
                self.free.pop();
                self.waiting.push(flow_hash(packet, self.hash_key), len, Slot { number, len });
                true
            }
            Ok(None) => false,
            Err(error) => {
                warn!(%error, "reading from the device failed");
                std::thread::sleep(DOWN_PAUSE);
                false
            }
        }
    }

    /// Seals and sends a round's share of what waits.
    fn serve(&mut self) {
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        let tables = shared.tables.load();
        let mut sealer: Option<(u32, Sealer<'_>)> = None;
        let (mut served, mut packets) = (0, 0);
        while served < ROUND_BYTES
            && self.outgoing.has_room(SLOT_BYTES + SLOT_BYTES / 8)
            && let Some((bytes, slot)) = self.waiting.pop()
        {
            served += bytes;
            // Lent out of its place, so that the rest of the thread's state stays free.
            let Some(mut bytes) = self.slots.get_mut(slot.number).map(std::mem::take) else { break };
            let whole = bytes.get_mut(..slot.len).unwrap_or_default();
            packets += self.seal_slot(&tables, whole, &mut sealer, now);
            if let Some(place) = self.slots.get_mut(slot.number) {
                *place = bytes;
            }
            self.free.push(slot.number);
        }
        drop(sealer);
        self.tally.add(Traffic::Local, packets);
        let sent = self.outgoing.flush(&shared.wire, self.shard, Some(now));
        self.tally.add(Traffic::TxDatagrams, sent);
    }

    /// Seals the packet or superpacket in a slot; how many packets that were.
    fn seal_slot<'a>(
        &mut self,
        tables: &'a Tables,
        whole: &mut [u8],
        sealer: &mut Option<(u32, Sealer<'a>)>,
        now: Instant,
    ) -> usize {
        let (header, packet) = if self.queue.has_header() {
            let Some((header, packet)) = whole.split_first_chunk_mut::<{ VnetHeader::BYTES }>() else {
                return 0;
            };
            (VnetHeader::parse(header), packet)
        } else {
            (Some(VnetHeader::default()), whole)
        };
        #[cfg(test)]
        assert!(!packet.ends_with(crate::tests::POISON), "a test wants a panic");
        let route = match tables.route(packet, now) {
            Ok(route) => route,
            Err(discard) => {
                self.tally.discard(discard);
                return 1;
            }
        };
        if !matches!(sealer, Some((slot, _)) if *slot == route.slot()) {
            // The lock of the peer before is released first.
            drop(sealer.take());
            *sealer = Some((route.slot(), route.lock()));
        }
        let Some((_, sealer)) = sealer else { return 0 };
        if sealer.mtu() < tables.mtu() && sealer.is_mtu_settled() {
            clamp(header.as_ref(), packet, sealer.mtu());
        }
        let packet = &*packet;
        let Some(superpacket) = header.and_then(|header| Superpacket::parse(&header, packet).ok()) else {
            self.tally.discard(Discard::MalformedPacket);
            return 1;
        };
        if superpacket.largest_len() > sealer.mtu() {
            if sealer.is_mtu_settled() {
                refuse_too_big(&self.queue, tables, packet, sealer.mtu());
            }
            self.tally.discard(Discard::TooBig);
            return superpacket.segments();
        }
        self.seal(&superpacket, route, sealer, now)
    }
}

impl Transmitter {
    fn seal(
        &mut self,
        superpacket: &Superpacket<'_>,
        route: Route<'_>,
        sealer: &mut Sealer<'_>,
        now: Instant,
    ) -> usize {
        let Some(to) = sealer.endpoint() else {
            self.tally.discard(Discard::NoEndpoint);
            return superpacket.segments();
        };
        if sealer.note_len(superpacket.largest_len()) {
            self.shared.tell(Notice::Large { slot: route.slot() }, &self.tally);
        }
        for number in 0..superpacket.segments() {
            let len = superpacket.write(number, &mut self.segment);
            let padded = sealer.padded_len(len);
            if let Some(padding) = self.segment.get_mut(len..padded) {
                padding.fill(0);
            }
            let packet = self.segment.get(..padded).unwrap_or_default();
            if !self.outgoing.has_room(padded + RUN_SLACK_BYTES) {
                // Thousands of tiny segments: more than was reserved. Without waiting for a link, whose thread may wait for the
                // session that is held here.
                self.outgoing.flush(&self.shared.wire, self.shard, None);
            }
            match sealer.seal(packet, self.outgoing.room(), now) {
                Ok(len) => self.outgoing.commit(&to, len),
                Err(Discard::ExpiredSession) => {
                    let packet = self.segment.get(..len).unwrap_or_default();
                    self.shared.wait(route, packet, now, &self.tally);
                }
                Err(discard) => self.tally.discard(discard),
            }
        }
        superpacket.segments()
    }
}

fn new_slot() -> Box<[u8]> {
    vec![0; SLOT_BYTES].into_boxed_slice()
}

/// Lowers the MSS that a SYN announces to what the way takes.
///
/// A checksum that is still to be completed covers only the addresses yet, and stays as it is.
fn clamp(header: Option<&VnetHeader>, packet: &mut [u8], mtu: usize) {
    let partial = header.filter(|header| header.flags & VnetHeader::NEEDS_CSUM != 0);
    let at = partial.map(|header| usize::from(header.csum_start) + usize::from(header.csum_offset));
    let field = |at: usize, packet: &[u8]| packet.get(at..).and_then(|rest| rest.first_chunk::<2>()).copied();
    let kept = at.and_then(|at| Some((at, field(at, packet)?)));
    let _ = clamp_mss(packet, u16::try_from(mtu).unwrap_or(u16::MAX));
    if let Some((at, bytes)) = kept
        && let Some(place) = packet.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *place = bytes;
    }
}

/// Where a packet goes: the kernel takes no ICMP message that claims to come from its own address.
fn destination_of(packet: &[u8], own: &OverlayLease) -> OverlayLease {
    let v4 = packet.get(16..).and_then(|rest| rest.first_chunk::<4>()).map(|bytes| Ipv4Addr::from(*bytes));
    let v6 = packet.get(24..).and_then(|rest| rest.first_chunk::<16>()).map(|bytes| Ipv6Addr::from(*bytes));
    OverlayLease { v4: v4.unwrap_or(own.v4), v6: v6.unwrap_or(own.v6) }
}

/// Tells the sender of a packet that it is too large for the way.
fn refuse_too_big(queue: &TunQueue, tables: &Tables, packet: &[u8], mtu: usize) {
    let mut answer = [0u8; TOO_BIG_BYTES];
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    let Some(len) = too_big(packet, mtu, &destination_of(packet, tables.own()), &mut answer) else { return };
    let header = VnetHeader::default().to_bytes();
    let answer = IoSlice::new(answer.get(..len).unwrap_or_default());
    // A device that is full or down loses it, and the sender asks again with its next packet.
    let _ = if queue.has_header() {
        queue.write(&[IoSlice::new(&header), answer])
    } else {
        queue.write(&[answer])
    };
}
