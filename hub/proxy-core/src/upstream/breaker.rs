//! A circuit breaker: closed, open for a while, and half open for one probe.
//!
//! ```text
//!            threshold failures in a row
//!   closed ------------------------------> open (base * n)
//!     ^                                      |  time is over
//!     |  probe succeeds                      v
//!     +---------------------------------- probing
//!                 probe fails: open again, n + 1
//! ```

use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BreakerRule {
    /// Failures in a row that open it.
    pub(super) threshold: u32,
    /// How long it stays open the first time; the n-th time in a row n times as long.
    pub(super) base: Duration,
    /// Largest n.
    pub(super) most: u32,
    /// How long a probe may go without a verdict before another one is let through.
    pub(super) probe: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    Probing {
        until: Instant,
    },
}

/// One breaker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Breaker {
    state: State,
    /// Failures in a row while closed.
    failures: u32,
    /// How often it opened, less one for every `base` that it was closed since.
    times: u32,
    closed_at: Option<Instant>,
}

impl Breaker {
    /// Whether a request may pass now.
    ///
    /// # Errors
    ///
    /// How long until one may.
    pub(super) fn admits(&self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open { until } | State::Probing { until } if until <= now => Ok(()),
            State::Open { until } | State::Probing { until } => Err(until.saturating_duration_since(now)),
        }
    }

    /// Whether it is not closed, so that a request that passes is a probe.
    #[must_use]
    pub(super) fn is_open(&self) -> bool {
        match self.state {
            State::Closed => false,
            State::Open { .. } | State::Probing { .. } => true,
        }
    }

    /// Notes that a request passes; true where it is a probe.
    pub(super) fn begin(&mut self, rule: &BreakerRule, now: Instant) -> bool {
        let is_probe = self.is_open();
        if is_probe {
            self.state = State::Probing { until: now + rule.probe };
        }
        is_probe
    }

    /// Notes a success; true where it closes the breaker. What began before it opened says nothing.
    pub(super) fn succeed(&mut self, is_probe: bool, now: Instant) -> bool {
        match self.state {
            State::Closed => {
                self.failures = 0;
                false
            }
            State::Probing { .. } if is_probe => {
                self.state = State::Closed;
                self.failures = 0;
                self.closed_at = Some(now);
                true
            }
            State::Probing { .. } | State::Open { .. } => false,
        }
    }

    /// Notes a failure; true where it opens the breaker, which `may_open` can forbid.
    pub(super) fn fail(&mut self, rule: &BreakerRule, is_probe: bool, may_open: bool, now: Instant) -> bool {
        match self.state {
            State::Closed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures < rule.threshold || !may_open {
                    return false;
                }
            }
            State::Probing { .. } if is_probe => {}
            State::Probing { .. } | State::Open { .. } => return false,
        }
        if let Some(closed_at) = self.closed_at.take() {
            let good = now.saturating_duration_since(closed_at).as_nanos();
            let intervals = good.checked_div(rule.base.as_nanos()).unwrap_or(0);
            self.times = self.times.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX));
        }
        self.times = self.times.saturating_add(1).min(rule.most);
        self.failures = 0;
        self.state = State::Open { until: now + rule.base.saturating_mul(self.times) };
        true
    }

    /// Notes that a probe ended without a verdict: the next request is one.
    pub(super) fn abandon(&mut self, now: Instant) {
        if let State::Probing { .. } = self.state {
            self.state = State::Open { until: now };
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;
    use proptest::prelude::*;

    const RULE: BreakerRule =
        BreakerRule { threshold: 3, base: Duration::from_secs(10), most: 3, probe: Duration::from_secs(5) };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for number in 1..=3 {
            assert_eq!(breaker.fail(&RULE, false, true, now), number == 3);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_only_then() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.fail(&RULE, false, true, now);
            breaker.fail(&RULE, false, true, now);
            breaker.succeed(false, now);
        }
        assert_eq!(breaker.admits(now), Ok(()));
        assert_eq!(opened(now).admits(now), Err(Duration::from_secs(10)));
        let mut held = Breaker::default();
        for _ in 0..10 {
            assert!(!held.fail(&RULE, false, false, now), "it may not");
        }
        assert!(held.fail(&RULE, false, true, now), "now it may");
    }

    #[test]
    fn one_probe_decides() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let later = start + Duration::from_secs(10);
        assert_eq!(breaker.admits(later), Ok(()));
        assert!(breaker.begin(&RULE, later), "the first is a probe");
        assert!(breaker.admits(later).is_err(), "and the only one");
        assert!(!breaker.succeed(false, later), "an old request says nothing");
        assert!(breaker.admits(later).is_err());
        assert!(breaker.succeed(true, later));
        assert_eq!(breaker.admits(later), Ok(()));
        assert!(!breaker.begin(&RULE, later));
    }

    #[test]
    fn it_stays_open_longer_each_time_and_forgets_with_good_time() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for n in [2, 3, 3] {
            now += Duration::from_secs(100);
            assert!(breaker.begin(&RULE, now));
            assert!(breaker.fail(&RULE, true, true, now));
            assert_eq!(breaker.admits(now), Err(Duration::from_secs(10 * n)));
        }
        now += Duration::from_secs(100);
        breaker.begin(&RULE, now);
        assert!(breaker.succeed(true, now));
        now += Duration::from_secs(20);
        for _ in 0..3 {
            breaker.fail(&RULE, false, true, now);
        }
        assert_eq!(breaker.admits(now), Err(Duration::from_secs(20)), "3 - 2 + 1");
    }

    #[test]
    fn a_probe_without_a_verdict_makes_room_for_another() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let mut breaker = opened(start);
        breaker.begin(&RULE, later);
        assert_eq!(breaker.admits(later), Err(RULE.probe));
        assert_eq!(breaker.admits(later + RULE.probe), Ok(()), "it hangs");
        breaker.abandon(later);
        assert_eq!(breaker.admits(later), Ok(()), "its client went away");
    }

    proptest! {
        /// Whatever happens, it lets somebody through again within the longest time.
        #[test]
        fn it_is_never_shut_for_good(steps in prop::collection::vec((0u8..4, 0u64..15), 0..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut is_probe = false;
            for (step, wait) in steps {
                now += Duration::from_secs(wait);
                match step {
                    0 if breaker.admits(now).is_ok() => is_probe = breaker.begin(&RULE, now),
                    1 => { breaker.succeed(is_probe, now); }
                    2 => { breaker.fail(&RULE, is_probe, true, now); }
                    3 => breaker.abandon(now),
                    _ => {}
                }
                if let Err(wait) = breaker.admits(now) {
                    prop_assert!(wait <= RULE.base * RULE.most && breaker.is_open());
                    prop_assert_eq!(breaker.admits(now + wait), Ok(()));
                }
            }
        }
    }
}
