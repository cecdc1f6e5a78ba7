//! What threads that read UDP do: opened, filtered, and written to the device, to the stack in this process, or back out.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::offload::{MAX_SEGMENTS, MergeLimits, Merger, VnetHeader};
use blueprint_common_tunnel_core::{
    Discard, Endpoint, Inbound, Notice, Outlet, RUN_BYTES, RUN_SLACK_BYTES, Tally, Via,
};
use tracing::{debug, error, warn};

use super::beside::Waits;
use super::inbox::Inbox;
use super::shared::{Shared, Telling};
use crate::links::Batch;
use crate::sys::poll::wait_readable;
use crate::sys::sched::Stint;
use crate::sys::tun::TunQueue;
use crate::sys::udp::UdpSocket;

/// Pause after a receive call that failed, so that a socket that always fails costs no processor.
pub(super) const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// Work of a thread that reads a port before it gives way, receive calls not counted. Short: a program's socket holds some 270
/// small datagrams unless it asked for more, and a burst of that many is handled within some hundred microseconds.
pub(super) const STINT: Duration = Duration::from_micros(100);

/// Where packets for this machine go.
#[derive(Debug, Clone)]
pub(crate) enum Local {
    /// Into the kernel, through a device.
    Device(Arc<TunQueue>, MergeLimits),
    /// Into the stack of this process.
    Stack(Arc<Inbox>),
}

/// One thread's or one link's state.
pub(crate) struct Receiver {
    pub(super) shared: Arc<Shared>,
    inbound: Inbound,
    sink: Sink,
    /// Where uneven datagrams are put in runs; empty until some come.
    run: Vec<u8>,
    telling: Telling,
    /// Since when a run of datagrams was worked on that no stint has counted yet; those of links never are.
    began: Option<Instant>,
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, local: &Local, shard: usize, tally: Arc<Tally>) -> Self {
        let sink = Sink {
            shared: Arc::clone(&shared),
            shard,
            tally: Arc::clone(&tally),
            local: match local {
                Local::Device(queue, limits) => Delivery::Device(
                    DeviceWriter { queue: Arc::clone(queue), tally: Arc::clone(&tally) },
                    Box::new(Merger::new(*limits)),
                    *limits,
                ),
                Local::Stack(inbox) => Delivery::Stack(Arc::clone(inbox)),
            },
        };
        let inbound = Inbound::new(tally);
        Self { shared, inbound, sink, run: Vec::new(), telling: Telling::default(), began: None }
    }

    /// Reads a port's socket until the tunnel stops; has it read beside QUIC once QUIC serves links there.
    pub(crate) fn run(mut self, port: u8, shard: usize, stranger: Option<Stranger>) {
        let shared = Arc::clone(&self.shared);
        let Some(socket) = shared.wire.socket(port.into(), shard) else { return };
        // Who shares the port never waits in a receive call.
        let _entered = stranger.is_none().then(|| socket.enter());
        let (mut buffer, mut stays) = (new_buffer(), stranger.is_none());
        let mut stint = Stint::new(STINT);
        while !shared.is_stopped() {
            if !stays && let Some(thread) = shared.wire.quic().and_then(|quic| quic.reader()) {
                match Waits::new(thread, socket, &shared) {
                    Ok(waits) => {
                        return stranger
                            .map_or((), |stranger| self.run_on(thread, waits, port, shard, stranger));
                    }
                    Err(error) => warn!(%error, "a port that QUIC shares stays with a thread of its own"),
                }
                stays = true;
            }
            match self.take_run(port, socket, &mut buffer, stranger.as_ref()) {
                // A socket that another protocol shares does not block, so this thread has to wait for it.
                Ok(None) if stranger.is_some() => {
                    if wait_readable([socket.as_fd(), shared.stop.as_fd()], None).is_err() {
                        std::thread::sleep(FAILURE_PAUSE);
                    }
                }
                Ok(_) => {
                    if let Some(began) = self.began.take() {
                        stint.add(began);
                    }
                }
                Err(error) => {
                    self.note_failure(&error);
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
        }
    }

    /// Takes one run of datagrams of a port, and says how many bytes that were; `None` where none is there.
    pub(super) fn take_run(
        &mut self,
        port: u8,
        socket: &UdpSocket,
        buffer: &mut [u8],
        stranger: Option<&Stranger>,
    ) -> io::Result<Option<usize>> {
        let room = buffer.get_mut(..RUN_BYTES).unwrap_or_default();
        let Some(received) = socket.receive(room, stranger.is_none())? else { return Ok(None) };
        let from = Endpoint { via: Via::Udp(port), remote: received.remote, local: received.local };
        let bytes = buffer.get(..received.len).unwrap_or_default();
        let is_strange =
            stranger.is_some_and(|stranger| stranger(&from, received.ecn, bytes, received.stride));
        if !is_strange {
            self.handle(&from, buffer, received.len, received.stride);
        }
        Ok(Some(received.len))
    }

    /// Counts a receive call that failed.
    pub(super) fn note_failure(&self, error: &io::Error) {
        self.shared.wire.errors().udp_receive.fetch_add(1, Ordering::Relaxed);
        debug!(%error, "receiving failed");
    }

    /// Takes the datagrams of a link.
    pub(crate) fn handle_batch(&mut self, from: &Endpoint, batch: &mut Batch) {
        match batch.stride() {
            Some(stride) => {
                let len = batch.bytes().len();
                self.handle(from, batch.buffer_mut(), len, stride);
            }
            None => self.handle_uneven(from, batch),
        }
        batch.clear();
    }

    /// Datagrams of different lengths: in runs of equal ones.
    fn handle_uneven(&mut self, from: &Endpoint, batch: &mut Batch) {
        let mut run = std::mem::take(&mut self.run);
        run.resize(RUN_BYTES + RUN_SLACK_BYTES, 0);
        let (mut len, mut stride) = (0, 0);
        for datagram in batch.iter() {
            let is_end = len % usize::max(stride, 1) != 0;
            if len > 0 && (is_end || datagram.len() > stride) {
                self.handle(from, &mut run, std::mem::take(&mut len), stride);
            }
            if len == 0 {
                stride = datagram.len();
            }
            if let Some(room) = run.get_mut(len..len + datagram.len()) {
                room.copy_from_slice(datagram);
                len += datagram.len();
            }
        }
        if len > 0 {
            self.handle(from, &mut run, len, stride);
        }
        self.run = run;
    }

    /// Handles a run of datagrams. A panic costs this run, whoever sent it, and nobody else anything.
    fn handle(&mut self, from: &Endpoint, buffer: &mut [u8], len: usize, stride: usize) {
        let now = Instant::now();
        self.began = Some(now);
        let tables = self.shared.tables.load();
        let handled = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            assert!(!buffer.starts_with(crate::tests::POISON), "a test wants a panic");
            self.inbound.handle(&tables, from, buffer, len, stride, now, &mut self.sink);
        }));
        if handled.is_err() {
            self.renew(from, now);
        }
    }

    /// Forgets what is half done with its workspace; what peers share is behind locks that a panic opens. Apart, since a
    /// new workspace takes kilobytes of stack, which no packet should pay for.
    #[cold]
    #[inline(never)]
    fn renew(&mut self, from: &Endpoint, now: Instant) {
        self.inbound = Inbound::new(Arc::clone(&self.sink.tally));
        self.sink.renew();
        self.sink.tally.discard(Discard::OwnPanic);
        if self.telling.is_due(now) {
            error!(%from, "a fault of this program ended a run of datagrams; please report it");
        }
    }
}

/// What a receive call is given.
pub(super) fn new_buffer() -> Vec<u8> {
    vec![0; RUN_BYTES + RUN_SLACK_BYTES]
}

/// Is asked first about datagrams on a port that another protocol shares; true where they were its own.
pub(crate) type Stranger = Box<dyn Fn(&Endpoint, u8, &[u8], usize) -> bool + Send>;

/// Where one thread's results go.
struct Sink {
    shared: Arc<Shared>,
    shard: usize,
    tally: Arc<Tally>,
    local: Delivery,
}

enum Delivery {
    Device(DeviceWriter, Box<Merger>, MergeLimits),
    Stack(Arc<Inbox>),
}

impl Sink {
    /// Forgets what is half done.
    fn renew(&mut self) {
        match &mut self.local {
            Delivery::Device(_, merger, limits) => **merger = Merger::new(*limits),
            Delivery::Stack(inbox) => inbox.ring(),
        }
    }
}

impl Outlet for Sink {
    fn deliver(&mut self, packets: &mut [u8], range: Range<usize>, is_alone: bool) {
        match &mut self.local {
            Delivery::Device(writer, _, _) if is_alone => {
                writer.write(&VnetHeader::default(), packets, &[range]);
            }
            Delivery::Device(writer, merger, _) => {
                merger
                    .add(packets, range, &mut |header, packets, parts| writer.write(header, packets, parts));
            }
            Delivery::Stack(inbox) => {
                if !inbox.push(packets.get(range).unwrap_or_default()) {
                    self.tally.discard(Discard::PacketFull);
                }
            }
        }
    }

    fn finish(&mut self, packets: &mut [u8]) {
        match &mut self.local {
            Delivery::Device(writer, merger, _) => {
                merger.flush(packets, &mut |header, packets, parts| writer.write(header, packets, parts));
            }
            Delivery::Stack(inbox) => inbox.ring(),
        }
    }

    fn send(&mut self, to: &Endpoint, datagrams: &[u8], segment: usize) {
        // A full socket drops, as a router does: waiting would keep every other peer's packets from being read.
        self.shared.wire.send(self.shard, to, datagrams, segment, Duration::ZERO);
    }

    fn tell(&mut self, notice: Notice) {
        self.shared.tell(notice, &self.tally);
    }
}

/// Writes packets and superpackets into the device, gathered from where they lie.
struct DeviceWriter {
    queue: Arc<TunQueue>,
    tally: Arc<Tally>,
}

impl DeviceWriter {
    fn write(&self, header: &VnetHeader, packets: &[u8], ranges: &[Range<usize>]) {
        match ranges.len() {
            0..=1 => self.write_parts::<2>(header, packets, ranges),
            _ => self.write_parts::<{ MAX_SEGMENTS + 1 }>(header, packets, ranges),
        }
    }

    /// Writes at most `PARTS` parts, the header among them. Never inlined, so that a packet by itself takes no room of many.
    #[inline(never)]
    fn write_parts<const PARTS: usize>(&self, header: &VnetHeader, packets: &[u8], ranges: &[Range<usize>]) {
        let header = header.to_bytes();
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        let header = self.queue.has_header().then_some(&header[..]);
        let packets = ranges.iter().filter_map(|range| packets.get(range.clone()));
        for (part, bytes) in parts.iter_mut().zip(header.into_iter().chain(packets)) {
            *part = IoSlice::new(bytes);
            count += 1;
        }
        if self.queue.write(parts.get(..count).unwrap_or_default()).is_err() {
            self.tally.discard(Discard::PacketFull);
        }
    }
}
