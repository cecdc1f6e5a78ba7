//! A rate and its state in one instant.

use std::time::{Duration, Instant};

/// Events per second and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// Makes a rate; a zero counts as one, so no rate shuts a lane for good.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    fn period(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// A rate's state: when the next event would be due if all came evenly (GCRA, ITU-T I.371).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gate {
    pub(super) due: Option<Instant>,
}

impl Gate {
    /// True where an event at `now` is within the rate.
    pub(crate) fn is_open(&self, rate: Rate, now: Instant) -> bool {
        let ahead = rate.period().saturating_mul(rate.burst.saturating_sub(1));
        self.due.is_none_or(|due| due <= now + ahead)
    }

    /// Counts an event at `now` if it is within the rate.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let open = self.is_open(rate, now);
        if open {
            self.due = Some(self.due.map_or(now, |due| due.max(now)) + rate.period());
        }
        open
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    #[test]
    fn a_gate_gives_its_burst_and_then_its_rate() {
        let (rate, start, mut gate) = (Rate::new(10, 5), Instant::now(), Gate::default());
        assert_eq!((0..20).filter(|_| gate.take(rate, start)).count(), 5);
        let later = start + Duration::from_millis(1000);
        assert_eq!((0..20).filter(|_| gate.take(rate, later)).count(), 5);
        let ticks = (0..100).map(|n| later + Duration::from_millis(10 * n));
        assert_eq!(ticks.filter(|now| gate.take(rate, *now)).count(), 9);
    }

    #[test]
    fn extreme_rates_neither_panic_nor_shut_the_gate() {
        for rate in [Rate::new(0, 0), Rate::new(u32::MAX, u32::MAX), Rate::new(1, u32::MAX)] {
            let (start, mut gate) = (Instant::now(), Gate::default());
            assert!(gate.take(rate, start), "{rate:?}");
            assert!(gate.take(rate, start + Duration::from_secs(1)), "{rate:?}");
        }
    }
}
