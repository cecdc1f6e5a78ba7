//! Remembers what was allowed to begin, so that its answers may come back.
//!
//! A fixed table of one word per place: half of it says which flow, half when it was last seen. A flow that
//! falls on a taken place replaces what is there, so memory is bounded, look-ups are one load, and the price of
//! a collision is that an answer is refused until the next packet of the flow's beginner. The hash is keyed:
//! nobody can aim at a place. TCP needs no memory: its answers carry the ACK flag, so that connections outlive a
//! restart of the hub and a collision.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Places; at most one in two hundred is taken by a thousand live flows.
const PLACES: usize = 1 << 18;
/// How long an answer may lie behind the last packet of who began (RFC 4787, section 4.3: at least 120 s).
const MEMORY: Duration = Duration::from_secs(180);

/// One flow, in the direction it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

impl Flow {
    pub(crate) const fn reversed(&self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }

    pub(crate) const fn of(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            protocol,
            source: SocketAddr::new(source.0, source.1),
            destination: SocketAddr::new(destination.0, destination.1),
        }
    }
}

/// Table of flows that were allowed to begin; shared by all packet threads without a lock.
pub struct Tracker {
    /// Made with the first flow: a spoke tracks none, and there may be thousands in one process.
    places: OnceLock<Box<[AtomicU64]>>,
    hash: RandomState,
    start: Instant,
}

impl Tracker {
    /// An empty table, which takes 2 MiB from the first flow on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { places: OnceLock::new(), hash: RandomState::new(), start: now }
    }

    /// Notes that a flow was allowed to send just now.
    pub(crate) fn note(&self, flow: &Flow, now: Instant) {
        let places = self.places.get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        let (number, tag) = self.place(flow);
        if let Some(place) = places.get(number) {
            place.store(tag | self.second(now), Ordering::Relaxed);
        }
    }

    /// True where the flow that this answers was allowed to send not long ago.
    pub(crate) fn is_answer(&self, flow: &Flow, now: Instant) -> bool {
        let (number, tag) = self.place(&flow.reversed());
        let place = self.places.get().and_then(|places| places.get(number));
        let Some(held) = place.map(|place| place.load(Ordering::Relaxed)) else { return false };
        let age = self.second(now).saturating_sub(held & u64::from(u32::MAX));
        held != 0 && held >> 32 == tag >> 32 && Duration::from_secs(age) <= MEMORY
    }

    fn place(&self, flow: &Flow) -> (usize, u64) {
        let hash = self.hash.hash_one(flow);
        let number = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) % PLACES;
        (number, hash >> 32 << 32)
    }

    /// Seconds since the table was made, from 1 on.
    fn second(&self, now: Instant) -> u64 {
        let seconds = now.saturating_duration_since(self.start).as_secs().saturating_add(1);
        seconds.min(u64::from(u32::MAX))
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    #[test]
    fn an_answer_passes_for_a_while_and_nothing_else_does() {
        let start = Instant::now();
        let tracker = Tracker::new(start);
        let ends = |port| ([10, 7, 0, 2].into(), port);
        let flow = Flow::of(17, ends(5000), ([10, 7, 0, 3].into(), 53));
        assert!(!tracker.is_answer(&flow.reversed(), start));
        tracker.note(&flow, start);
        assert!(tracker.is_answer(&flow.reversed(), start + MEMORY));
        assert!(!tracker.is_answer(&flow.reversed(), start + MEMORY + Duration::from_secs(2)));
        assert!(!tracker.is_answer(&flow, start), "the beginner needs a grant");
        let other = Flow::of(17, ends(5001), ([10, 7, 0, 3].into(), 53));
        assert!(!tracker.is_answer(&other.reversed(), start));
    }
}
