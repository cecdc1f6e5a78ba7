//! The paths of messages: streams that keep the order, stall while the path is down, and break anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::wire::{MachineId, ToAgent, ToHub};

/// First pause before what did not arrive is sent again; doubles (RFC 6298, with Linux's least value).
const RESEND: Duration = Duration::from_millis(200);
/// The same for a stream that is being opened (RFC 6298, section 2.1).
const RESEND_OPENING: Duration = Duration::from_secs(1);
/// Most of it.
const RESEND_MAX: Duration = Duration::from_secs(60);

pub(crate) type StreamId = u64;

/// A message, or the end of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<T> {
    Message(T),
    End,
}

/// What something in the middle did to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    /// Whoever sends is told that there is no such stream.
    Reset,
    /// Whatever is sent is lost.
    Hole,
}

#[derive(Debug)]
struct Lane<T> {
    queue: VecDeque<(Instant, Frame<T>)>,
    resend: Duration,
}

#[derive(Debug)]
struct Stream {
    machine: MachineId,
    up: Lane<ToHub>,
    down: Lane<ToAgent>,
    fate: Fate,
}

/// Something that arrives at one end.
#[derive(Debug)]
pub(crate) enum Arrival {
    AtHub(StreamId, Frame<ToHub>),
    AtAgent(StreamId, MachineId, Frame<ToAgent>),
}

/// All streams there ever were and that may still carry something.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: BTreeMap<StreamId, Stream>,
    last: StreamId,
}

impl<T> Lane<T> {
    const fn new(resend: Duration) -> Self {
        Self { queue: VecDeque::new(), resend }
    }

    fn push(&mut self, frame: Frame<T>, at: Instant) {
        let at = self.queue.back().map_or(at, |(last, _)| at.max(*last));
        self.queue.push_back((at, frame));
    }

    fn next_at(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _)| *at)
    }

    /// The first frame where it is due; over a blocked path it has to be sent again.
    fn pop(&mut self, now: Instant, is_blocked: bool) -> Option<Frame<T>> {
        let (at, _) = self.queue.front_mut()?;
        if *at > now {
            return None;
        }
        if is_blocked {
            *at = now + self.resend;
            self.resend = (self.resend * 2).min(RESEND_MAX);
            return None;
        }
        self.resend = RESEND;
        self.queue.pop_front().map(|(_, frame)| frame)
    }
}

impl Streams {
    /// Opens a stream with its first message.
    pub(crate) fn open(&mut self, machine: MachineId, first: ToHub, at: Instant) -> StreamId {
        self.last += 1;
        let mut up = Lane::new(RESEND_OPENING);
        up.push(Frame::Message(first), at);
        let stream = Stream { machine, up, down: Lane::new(RESEND), fate: Fate::Whole };
        self.streams.insert(self.last, stream);
        self.last
    }

    pub(crate) fn send_up(&mut self, id: StreamId, frame: Frame<ToHub>, at: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match stream.fate {
            Fate::Whole => stream.up.push(frame, at),
            Fate::Reset if frame != Frame::End => stream.down.push(Frame::End, at),
            Fate::Reset | Fate::Hole => {}
        }
    }

    pub(crate) fn send_down(&mut self, id: StreamId, frame: Frame<ToAgent>, at: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match stream.fate {
            Fate::Whole => stream.down.push(frame, at),
            Fate::Reset if frame != Frame::End => stream.up.push(Frame::End, at),
            Fate::Reset | Fate::Hole => {}
        }
    }

    /// Breaks a stream: of what is under way a random part arrives, and each end may hear of it or not.
    pub(crate) fn cut(&mut self, rng: &mut Rng, now: Instant) -> Option<StreamId> {
        let ids: Vec<_> = self.streams.keys().copied().collect();
        let id = *ids.get(rng.index(ids.len()))?;
        let stream = self.streams.get_mut(&id)?;
        stream.up.queue.truncate(rng.index(stream.up.queue.len() + 1));
        stream.down.queue.truncate(rng.index(stream.down.queue.len() + 1));
        stream.fate = if rng.chance(500) { Fate::Reset } else { Fate::Hole };
        if rng.chance(300) {
            stream.up.push(Frame::End, now + rng.millis(0, 2000));
        }
        if rng.chance(300) {
            stream.down.push(Frame::End, now + rng.millis(0, 2000));
        }
        Some(id)
    }

    /// Nothing swallows messages any more: what TCP sends again of them is answered by a reset, within a second.
    pub(crate) fn heal(&mut self, rng: &mut Rng, now: Instant) {
        for stream in self.streams.values_mut().filter(|stream| stream.fate == Fate::Hole) {
            stream.fate = Fate::Reset;
            stream.down.push(Frame::End, now + rng.millis(0, 1000));
        }
    }

    /// The agent closes its end. A stream that the hub does not know yet is never heard of.
    pub(crate) fn close(&mut self, id: StreamId, at: Instant) {
        let is_opening =
            |(_, frame): &(Instant, Frame<ToHub>)| matches!(frame, Frame::Message(ToHub::Hello { .. }));
        if self.streams.get(&id).is_some_and(|stream| stream.up.queue.iter().any(is_opening)) {
            self.forget(id);
        } else {
            self.send_up(id, Frame::End, at);
        }
    }

    /// Drops a stream without a word to either end.
    pub(crate) fn forget(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        let both = |stream: &Stream| [stream.up.next_at(), stream.down.next_at()];
        self.streams.values().flat_map(both).flatten().min()
    }

    /// The next frame that arrives by `now`.
    pub(crate) fn arrival(
        &mut self,
        now: Instant,
        is_blocked: impl Fn(MachineId) -> bool,
    ) -> Option<Arrival> {
        for (id, stream) in &mut self.streams {
            let blocked = is_blocked(stream.machine);
            if let Some(frame) = stream.up.pop(now, blocked) {
                return Some(Arrival::AtHub(*id, frame));
            }
            if let Some(frame) = stream.down.pop(now, blocked) {
                return Some(Arrival::AtAgent(*id, stream.machine, frame));
            }
        }
        None
    }
}
