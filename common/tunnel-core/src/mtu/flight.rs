//! Probes that are due or under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Probes remembered at most, and probes waiting to be sent at most; a climb has ten, a doubt some forty in 4 s.
pub(super) const MAX_FLIGHTS: usize = 64;
/// An answer later than this is none: it may tell of a path that is no more.
const FORGET_AFTER: Duration = Duration::from_secs(4);
/// Time to miss before the first answer, and the least and most after it; four round trips in between.
const FIRST_MISS_AFTER: Duration = Duration::from_secs(1);
const LEAST_MISS_AFTER: Duration = Duration::from_millis(300);
const MOST_MISS_AFTER: Duration = Duration::from_millis(800);
/// Least time until the guard doubts; one and a half round trips where that is longer.
const LEAST_DOUBT_AFTER: Duration = Duration::from_millis(200);

/// What an answer would prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The size in use passes.
    Confirm,
    /// It passes after all; the pair's number.
    Large(u8),
    /// Smaller ones do; the pair's number.
    Small(u8),
    /// A larger one does.
    Climb,
}

/// A probe under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) token: u64,
    pub(super) size: u16,
    pub(super) purpose: Purpose,
    pub(super) sent_at: Instant,
    missed: bool,
}

/// All probes of one search.
#[derive(Debug, Default)]
pub(super) struct Flights {
    next_token: u64,
    queue: VecDeque<(u16, Purpose)>,
    sent: VecDeque<Flight>,
    rtt: Option<Duration>,
}

impl Flights {
    /// Queues a probe; false, and it counts as never asked for, where nobody takes them.
    pub(super) fn ask(&mut self, size: u16, purpose: Purpose) -> bool {
        let has_room = self.queue.len() < MAX_FLIGHTS;
        if has_room {
            self.queue.push_back((size, purpose));
        }
        has_room
    }

    pub(super) fn send(&mut self, now: Instant) -> Option<Flight> {
        let (size, purpose) = self.queue.pop_front()?;
        let flight = Flight { token: self.next_token, size, purpose, sent_at: now, missed: false };
        self.next_token = self.next_token.wrapping_add(1);
        if self.sent.len() >= MAX_FLIGHTS {
            self.sent.pop_front();
        }
        self.sent.push_back(flight);
        Some(flight)
    }

    pub(super) fn take_answer(&mut self, size: u16, token: u64, now: Instant) -> Option<Flight> {
        let at = self.sent.iter().position(|flight| flight.token == token && flight.size == size)?;
        let flight = self.sent.remove(at)?;
        let sample = now.saturating_duration_since(flight.sent_at);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 3 + sample) / 4));
        (sample < FORGET_AFTER).then_some(flight)
    }

    /// The next probe that should have come back by `now`, each once.
    pub(super) fn next_missed(&mut self, now: Instant) -> Option<Flight> {
        self.sent
            .retain(|flight| now.saturating_duration_since(flight.sent_at) < FORGET_AFTER || !flight.missed);
        if self.sent.is_empty() && self.queue.is_empty() {
            // Ten thousand idle paths keep no buffers.
            (self.sent, self.queue) = (VecDeque::new(), VecDeque::new());
        }
        let limit = self.miss_after();
        let missed = self.sent.iter_mut().find(|flight| !flight.missed && flight.sent_at + limit <= now)?;
        missed.missed = true;
        Some(*missed)
    }

    /// True while a probe of a climb may still be answered in time.
    pub(super) fn is_climbing(&self) -> bool {
        let mut queued = self.queue.iter().map(|(_, purpose)| *purpose);
        let mut sent = self.sent.iter().filter(|flight| !flight.missed).map(|flight| flight.purpose);
        queued.any(|purpose| purpose == Purpose::Climb) || sent.any(|purpose| purpose == Purpose::Climb)
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Token of the next probe: what has a lower one was sent before.
    pub(super) const fn next_token(&self) -> u64 {
        self.next_token
    }

    /// Forgets every probe; the round trip time stays.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.sent.clear();
    }

    /// Forgets the path, but no token is used twice.
    pub(super) fn forget_path(&mut self) {
        *self = Self { next_token: self.next_token, ..Self::default() };
    }

    /// When the next probe is a miss, or may be forgotten.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limit = self.miss_after();
        let until = |flight: &Flight| flight.sent_at + if flight.missed { FORGET_AFTER } else { limit };
        self.sent.iter().map(until).min()
    }

    /// Time after which a probe is a miss. Above 400 ms of round trip two of them, or nothing would come in time.
    fn miss_after(&self) -> Duration {
        self.rtt.map_or(FIRST_MISS_AFTER, |rtt| {
            let most = MOST_MISS_AFTER.max(rtt.saturating_mul(2));
            rtt.saturating_mul(4).clamp(LEAST_MISS_AFTER, most)
        })
    }

    /// Time after which the guard doubts.
    pub(super) fn doubt_after(&self) -> Duration {
        self.rtt.map_or(LEAST_DOUBT_AFTER, |rtt| LEAST_DOUBT_AFTER.max(rtt.saturating_mul(3) / 2))
    }

    #[cfg(test)]
    pub(super) fn lens(&self) -> (usize, usize) {
        (self.queue.len(), self.sent.len())
    }
}
