//! How many requests may be sent a second time.

use std::time::{Duration, Instant};

/// Seconds that are looked back on.
const WINDOW: usize = 10;

/// Retries allowed in every second whatever the traffic.
const PER_SECOND: u64 = 3;

/// One retry is allowed for so many requests: 20 %.
const REQUESTS_PER_RETRY: u64 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slot {
    second: u64,
    requests: u64,
    retries: u64,
}

/// Retries of one service: within any ten seconds a fifth of its requests, and thirty more.
///
/// Relative, as Envoy, Linkerd and Finagle have it: where everything fails, load grows by a fifth and not
/// by a multiple; where little comes, a retry is still to be had.
#[derive(Debug, Clone)]
pub(super) struct RetryBudget {
    origin: Instant,
    slots: [Slot; WINDOW],
}

impl RetryBudget {
    /// A budget without any past.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        Self { origin: now, slots: [Slot::default(); WINDOW] }
    }

    /// Counts a request.
    pub(super) fn deposit(&mut self, now: Instant) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Counts a retry where one is left; false where not.
    pub(super) fn withdraw(&mut self, now: Instant) -> bool {
        let second = self.second(now);
        let window = u64::try_from(WINDOW).unwrap_or(u64::MAX);
        let recent = self.slots.iter().filter(|slot| slot.second.saturating_add(window) > second);
        let (requests, retries) = recent.fold((0u64, 0u64), |(requests, retries), slot| {
            (requests.saturating_add(slot.requests), retries.saturating_add(slot.retries))
        });
        let earned = requests.checked_div(REQUESTS_PER_RETRY).unwrap_or(0);
        if retries >= earned.saturating_add(PER_SECOND.saturating_mul(window)) {
            return false;
        }
        let slot = self.slot(now);
        slot.retries = slot.retries.saturating_add(1);
        true
    }

    fn second(&self, now: Instant) -> u64 {
        let age: Duration = now.saturating_duration_since(self.origin);
        age.as_secs()
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        let second = self.second(now);
        let [first, rest @ ..] = &mut self.slots;
        let window = u64::try_from(WINDOW).unwrap_or(1);
        let place = usize::try_from(second.checked_rem(window).unwrap_or(0)).unwrap_or(0);
        let slot = match place.checked_sub(1).and_then(|place| rest.get_mut(place)) {
            Some(slot) => slot,
            None => first,
        };
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;
    use proptest::prelude::*;

    fn drained(budget: &mut RetryBudget, now: Instant) -> u64 {
        let mut count = 0;
        while budget.withdraw(now) {
            count += 1;
        }
        count
    }

    #[test]
    fn a_fifth_of_the_requests_and_thirty_in_ten_seconds() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        assert_eq!(drained(&mut budget, start), 30);
        for _ in 0..1000 {
            budget.deposit(start + Duration::from_secs(1));
        }
        assert_eq!(drained(&mut budget, start + Duration::from_secs(1)), 200);
        assert!(!budget.withdraw(start + Duration::from_secs(9)));
        assert_eq!(drained(&mut budget, start + Duration::from_secs(10)), 30, "the first second is past");
        assert_eq!(drained(&mut budget, start + Duration::from_secs(60)), 30, "all of it is past");
    }

    proptest! {
        /// Against the plain list of everything that happened.
        #[test]
        fn no_window_has_more_retries_than_it_earned(steps in prop::collection::vec((0u64..4, 0u32..30, 0u32..60), 1..60)) {
            let start = Instant::now();
            let mut budget = RetryBudget::new(start);
            let (mut second, mut requests, mut retries) = (0u64, Vec::new(), Vec::new());
            for (wait, asked, again) in steps {
                second += wait;
                let now = start + Duration::from_secs(second);
                for _ in 0..asked {
                    budget.deposit(now);
                    requests.push(second);
                }
                for _ in 0..again {
                    let inside = |list: &[u64]| list.iter().filter(|at| **at + 10 > second).count();
                    let expected = inside(&retries) < inside(&requests) / 5 + 30;
                    prop_assert_eq!(budget.withdraw(now), expected);
                    if expected {
                        retries.push(second);
                    }
                }
            }
        }
    }
}
