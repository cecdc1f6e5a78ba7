//! The largest inner packet that one path carries, found by probes and kept true while large packets flow.
//!
//! A probe is an echo of exactly the size asked about, inside the session, answered at the same size, so an answer
//! proves both directions. The sizes between floor and ceiling are the *climb*; whether the size in use still
//! passes is the *guard*; they run side by side:
//!
//! ```text
//!   climb: all steps at once -> each answer raises at once -> what missed 4 times while others came back is too
//!          large -> jumbo: three sizes between -> ... -> rest; after 1, 2, 4, 8, 10, 10 .. minutes once more
//!   guard: large data -> a probe each 0.4 s -- no answer --> doubt: pairs of a large and a small probe
//!          doubt: large came back -> trust;  5 pairs lost the large one only -> fall, and climb again
//! ```
//!
//! A new path starts at the floor: large packets never hang on it, and the first answers raise it after one
//! round trip. A fall goes to the largest size that came back during the doubt. The time it takes: at most
//! 0.6 s until the guard's probe, then at 200 ms of round trip 0.3 s until doubt, 0.4 s for five pairs and 0.8 s for the
//! last to miss: 2.1 s; on a short way 1.5 s, and at most 3 s up to 400 ms (P23).
//!
//! Invariants:
//!
//! - Loss alone lets nothing fall: at 5 % each way a probe misses with 9.75 %, the six and more in a row that a
//!   fall needs less than once in 100 hours of large data. A path that loses everything lets nothing fall either.
//! - A path without large packets costs nothing once its climb has ended.
//! - After `handle_timeout(now)` and all of `poll_probe(now)`, `deadline()` is `None` or later than `now`.
//! - At most [`flight::MAX_FLIGHTS`] probes are remembered.

mod climb;
mod flight;
mod guard;
#[cfg(test)]
mod tests;

use std::time::Instant;

use self::climb::Climb;
use self::flight::{Flights, Purpose};
use self::guard::Guard;

/// Packets this little shorter than the MTU in use show that longer ones are wanted: TCP fills its segments, but
/// for IPv6's longer header and its options.
const FULL_WITHIN_BYTES: u16 = 64;

/// Largest of the sizes that a fall asks about, in bytes.
pub(crate) const LAST_STEP: u16 = {
    let [last, ..] = climb::STEPS;
    last
};

/// Between which sizes of inner packets, in bytes, the search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MtuLimits {
    /// Used without proof; 1280 where the overlay carries IPv6 (RFC 8200, section 5).
    pub(crate) floor: u16,
    /// What is configured or the carrier takes; counts as the floor where it is below it.
    pub(crate) ceiling: u16,
}

/// An echo to send through the path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Length of the inner packet in bytes, exactly; padding must not lengthen it.
    pub(crate) size: u16,
    /// To come back with the answer.
    pub(crate) token: u64,
}

/// The search on one path. Times never go back; one that does counts as the latest seen.
#[derive(Debug)]
pub(crate) struct MtuSearch {
    limits: MtuLimits,
    now: Instant,
    current: u16,
    flights: Flights,
    guard: Guard,
    climb: Climb,
    falls: u64,
}

impl MtuSearch {
    /// Starts at the floor, with the first probes ready.
    pub(crate) fn new(limits: MtuLimits, now: Instant) -> Self {
        let limits = MtuLimits { ceiling: limits.ceiling.max(limits.floor), ..limits };
        let mut search = Self {
            limits,
            now,
            current: limits.floor,
            flights: Flights::default(),
            guard: Guard::default(),
            climb: Climb::new(limits, now),
            falls: 0,
        };
        search.handle_timeout(now);
        search
    }

    /// Starts anew on another path: the carrier or the endpoint changed. Answers to earlier probes count no more.
    pub(crate) fn restart(&mut self, ceiling: u16, now: Instant) {
        self.limits.ceiling = ceiling.max(self.limits.floor);
        self.now = self.now.max(now);
        self.current = self.limits.floor;
        self.flights.forget_path();
        self.guard = Guard::default();
        self.climb = Climb::new(self.limits, self.now);
        self.handle_timeout(now);
    }

    /// Takes the answer to a probe; one of another length than was asked for is none.
    pub(crate) fn handle_answer(&mut self, size: u16, token: u64, now: Instant) {
        self.now = self.now.max(now);
        let Some(flight) = self.flights.take_answer(size, token, self.now) else { return };
        self.current = self.current.max(size);
        self.guard.handle_answer(&flight, self.current, self.now);
        self.climb.handle_answer(&flight);
        self.handle_timeout(now);
    }

    /// Notes that data was sent, of which the longest packet had `len` bytes; cheap, for each run of packets.
    ///
    /// Afterwards [`Self::deadline`] may have passed: the path is then due to be proven.
    pub(crate) fn note_large_sent(&mut self, len: u16, now: Instant) {
        let now = self.now.max(now);
        if len > self.limits.floor {
            self.guard.note_large(now);
        }
        if len.saturating_add(FULL_WITHIN_BYTES) >= self.current {
            self.climb.note_wanted(now);
        }
    }

    /// Does everything that is due at `now`; then [`Self::poll_probe`] is to be drained.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(flight) = self.flights.next_missed(self.now) {
            self.guard.handle_miss(&flight);
        }
        if let Some(size) = self.guard.proven_fall(self.limits.floor) {
            self.fall(size);
        }
        self.guard.handle_timeout(self.current, self.limits.floor, &mut self.flights, self.now);
        self.climb.handle_timeout(self.current, &mut self.flights, self.now);
    }

    /// The next probe to send at `now`; `None` once there is no more.
    pub(crate) fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        self.now = self.now.max(now);
        let flight = self.flights.send(self.now)?;
        if flight.purpose == Purpose::Confirm {
            self.guard.note_confirm_sent(self.now);
        }
        Some(Probe { size: flight.size, token: flight.token })
    }

    /// Largest inner packet in bytes that may be sent now.
    pub(crate) const fn current(&self) -> u16 {
        self.current
    }

    /// False during a climb: [`Self::current`] may soon be higher.
    pub(crate) const fn is_settled(&self) -> bool {
        self.climb.is_resting()
    }

    /// How often the path has taken a size away.
    #[cfg(test)]
    pub(crate) const fn falls(&self) -> u64 {
        self.falls
    }

    /// When to call [`Self::handle_timeout`] next; `None` on a path that costs nothing until data flows.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.flights.has_queued() {
            return Some(self.now);
        }
        let guard = self.guard.deadline(self.current, self.limits.floor, &self.flights);
        [self.flights.deadline(), guard, self.climb.deadline(self.current)].into_iter().flatten().min()
    }

    fn fall(&mut self, size: u16) {
        let top = self.current;
        self.current = size;
        self.falls = self.falls.saturating_add(1);
        self.flights.clear();
        self.guard.handle_fall();
        self.climb.handle_fall(size, top, self.now);
    }
}
