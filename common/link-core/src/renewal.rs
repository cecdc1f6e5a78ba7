//! When the certificate is exchanged for a fresh one.

use std::time::Duration;

use blueprint_common_types::Timestamp;

use crate::Backoff;
use crate::rng::SplitMix64;

/// Longest wait between two looks at the wall clock, which may jump while a timer sleeps.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Longest wait after a failed renewal; some 140 tries fit in the second half of a 24 h certificate.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Half the certificate's life, changed by up to a tenth either way, so that agents that joined together do
/// not renew together.
///
/// It is told wall-clock time, because validity is; it holds no timer and tolerates jumps both ways.
///
/// Invariants:
/// - it falls due between 45 % and 55 % of the certificate's life;
/// - [`Self::poll_wait`] is at most one minute, so a jump of the clock shows within one.
#[derive(Debug)]
pub struct Renewal {
    not_after: Timestamp,
    due_at: Timestamp,
    backoff: Backoff,
    rng: SplitMix64,
}

impl Renewal {
    /// Plans for a certificate valid from `not_before` to `not_after`.
    #[must_use]
    pub fn new(not_before: Timestamp, not_after: Timestamp, seed: u64) -> Self {
        let mut renewal = Self {
            not_after,
            due_at: not_before,
            backoff: Backoff::new(LONGEST_RETRY, seed),
            rng: SplitMix64::new(seed),
        };
        renewal.handle_renewed(not_before, not_after);
        renewal
    }

    /// Plans anew, for the certificate that a renewal gave.
    pub fn handle_renewed(&mut self, not_before: Timestamp, not_after: Timestamp) {
        self.not_after = not_after;
        self.due_at = not_before.plus(self.rng.scale(not_after.since(not_before), 450, 550));
        self.backoff.reset();
    }

    /// Notes that a renewal failed at `now`: the next try is due after a back-off of 100 ms to 5 min.
    pub fn handle_failure(&mut self, now: Timestamp) {
        self.due_at = now.plus(self.backoff.next_wait());
    }

    /// When to renew next.
    #[must_use]
    pub const fn due_at(&self) -> Timestamp {
        self.due_at
    }

    /// End of the certificate's validity.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// True where the renewal is to be tried at `now`.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.due_at
    }

    /// True where the certificate is of no use any more at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }

    /// How long to sleep before the next look at [`Self::is_due`]; zero where it is due.
    #[must_use]
    pub fn poll_wait(&self, now: Timestamp) -> Duration {
        self.due_at.since(now).min(LONGEST_LOOK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[test]
    fn a_day_is_renewed_around_noon() {
        for seed in 0..200 {
            let renewal = Renewal::new(START, START.plus(24 * HOUR), seed);
            let due = renewal.due_at().since(START);
            assert!(due >= HOUR * 108 / 10 && due <= HOUR * 132 / 10, "{due:?}");
            assert!(!renewal.is_due(START.plus(10 * HOUR)));
            assert!(renewal.is_due(START.plus(14 * HOUR)));
        }
    }

    #[test]
    fn failures_are_tried_again_with_back_off_until_one_succeeds() {
        let mut renewal = Renewal::new(START, START.plus(24 * HOUR), 1);
        let mut now = renewal.due_at();
        let mut tries = 0;
        while !renewal.is_expired(now) {
            if renewal.is_due(now) {
                renewal.handle_failure(now);
                tries += 1;
            }
            now = now.plus(renewal.poll_wait(now).max(Duration::from_millis(1)));
        }
        assert!((100..250).contains(&tries), "{tries}");

        renewal.handle_renewed(now, now.plus(24 * HOUR));
        assert!(!renewal.is_due(now) && !renewal.is_expired(now));
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_it_due_and_expired() {
        let renewal = Renewal::new(START, START.plus(24 * HOUR), 1);
        let later = START.plus(48 * HOUR);
        assert!(renewal.is_due(later) && renewal.is_expired(later));
        assert_eq!(renewal.poll_wait(later), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn it_never_waits_past_a_minute_nor_zero_before_it_is_due(before: u64, life: u64, now: u64, seed: u64) {
            let not_before = Timestamp::from_millis(before);
            let not_after = not_before.plus(Duration::from_millis(life));
            let renewal = Renewal::new(not_before, not_after, seed);
            let now = Timestamp::from_millis(now);
            let wait = renewal.poll_wait(now);
            prop_assert!(wait <= LONGEST_LOOK);
            prop_assert_eq!(wait.is_zero(), renewal.is_due(now));
        }
    }
}
