//! Workloads whose task fell over: a fault of the agent's own, and no reason to try again without a pause.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blueprint_common_types::ServiceKey;

use crate::backoff::Backoff;

/// One start of the hub's choice: a service and the number of its assignment.
pub type Assigned = (ServiceKey, u64);

/// When tasks that fell may be started again.
///
/// Each waits by itself, 0.5 s at first, then twice as long each time, 60 s at most; one that ran for a minute starts
/// with 0.5 s again.
#[derive(Debug, Clone, Default)]
pub struct Falls(BTreeMap<Assigned, Fall>);

#[derive(Debug, Clone)]
struct Fall {
    count: u32,
    backoff: Backoff,
    until: Instant,
}

impl Falls {
    /// A task fell that had run for so long.
    pub fn handle_fall(&mut self, of: Assigned, ran: Duration, now: Instant) {
        let fall = self.0.entry(of).or_insert(Fall { count: 0, backoff: Backoff::new(), until: now });
        fall.count = fall.count.saturating_add(1);
        fall.backoff.handle_run(ran);
        fall.until = now.checked_add(fall.backoff.next_wait()).unwrap_or(now);
    }

    /// Forgets what is not wanted any more.
    pub fn retain(&mut self, is_wanted: impl Fn(&Assigned) -> bool) {
        self.0.retain(|of, _| is_wanted(of));
    }

    /// Whether it has to wait at this time.
    #[must_use]
    pub fn is_resting(&self, of: &Assigned, now: Instant) -> bool {
        self.0.get(of).is_some_and(|fall| fall.until > now)
    }

    /// How often it fell.
    #[must_use]
    pub fn count(&self, of: &Assigned) -> u32 {
        self.0.get(of).map_or(0, |fall| fall.count)
    }

    /// When the next one may be started that has to wait now; `None` where none has.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|fall| fall.until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]
mod tests {
    use super::*;

    const ONE: Assigned = (ServiceKey { blueprint: 7, service: 42 }, 3);
    const TWO: Assigned = (ServiceKey { blueprint: 7, service: 43 }, 1);

    #[test]
    fn each_fall_waits_longer_until_a_long_run() {
        let (mut falls, mut now) = (Falls::default(), Instant::now());
        assert_eq!((falls.is_resting(&ONE, now), falls.poll_timeout(now)), (false, None));
        let mut waits = Vec::new();
        for _ in 0..10 {
            falls.handle_fall(ONE, Duration::from_secs(1), now);
            let until = falls.poll_timeout(now).unwrap();
            assert!(falls.is_resting(&ONE, now) && !falls.is_resting(&ONE, until));
            assert!(!falls.is_resting(&TWO, now));
            waits.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!((falls.count(&ONE), falls.poll_timeout(now)), (10, None));
        falls.handle_fall(ONE, Duration::from_secs(60), now);
        assert_eq!(falls.poll_timeout(now).unwrap() - now, Duration::from_millis(500));
        falls.handle_fall(TWO, Duration::ZERO, now);
        falls.retain(|of| *of == TWO);
        assert_eq!((falls.count(&ONE), falls.count(&TWO)), (0, 1));
    }
}
