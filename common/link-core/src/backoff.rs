//! How long to wait before the next attempt.

use std::time::Duration;

use crate::rng::SplitMix64;

/// Wait after the first failure.
const FIRST: Duration = Duration::from_millis(100);

/// Waits of 100 ms, doubling up to a cap, each changed by up to a quarter either way.
///
/// The jitter keeps a thousand agents from coming back to a restarted hub in step.
///
/// Invariants:
/// - a wait is within 75 % and 125 % of its step, and its step is never above the cap;
/// - equal seeds give equal waits.
#[derive(Debug, Clone)]
pub struct Backoff {
    step: Duration,
    cap: Duration,
    failures: u32,
    rng: SplitMix64,
}

impl Backoff {
    /// Starts at 100 ms; a `cap` below that is the first wait too.
    #[must_use]
    pub fn new(cap: Duration, seed: u64) -> Self {
        Self { step: FIRST.min(cap), cap, failures: 0, rng: SplitMix64::new(seed) }
    }

    /// The wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.rng.scale(self.step, 750, 1250);
        self.step = self.step.saturating_mul(2).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// A wait of the cap's length, for failures that haste cannot help; leaves the step alone.
    pub fn longest_wait(&mut self) -> Duration {
        self.rng.scale(self.cap, 750, 1250)
    }

    /// Starts again at the first step, after a success that lasted.
    pub fn reset(&mut self) {
        self.step = FIRST.min(self.cap);
        self.failures = 0;
    }

    /// Failures since the last reset.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(2), 7);
        for step in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next_wait();
            let step = Duration::from_millis(step);
            assert!(wait >= step * 3 / 4 && wait <= step * 5 / 4, "{wait:?} for {step:?}");
        }
        assert_eq!(backoff.failures(), 7);
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(125));
    }

    #[test]
    fn waits_of_two_seeds_differ_and_of_one_seed_agree() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(30), seed);
            (0..8).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    proptest! {
        #[test]
        fn no_wait_is_above_the_cap_and_a_quarter(seed: u64, cap_millis in 0u64..=u64::MAX, count in 1usize..80) {
            let cap = Duration::from_millis(cap_millis);
            let mut backoff = Backoff::new(cap, seed);
            for _ in 0..count {
                prop_assert!(backoff.next_wait() <= cap.saturating_mul(5) / 4);
            }
            prop_assert!(backoff.longest_wait() <= cap.saturating_mul(5) / 4);
        }
    }
}
