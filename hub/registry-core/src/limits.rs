//! What agents and workloads may cause: calls by a rate, and words about refusals by the minute.
//!
//! Both are bounded in memory whoever asks, and are told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use blueprint_common_types::AgentId;

/// How much of something there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// And one more after each of these.
    pub every: Duration,
}

impl Rate {
    /// When `used` at `since` are all given back; `None` where that is out of reach.
    fn full_at(self, used: u32, since: Instant) -> Option<Instant> {
        since.checked_add(self.every.checked_mul(used)?)
    }
}

/// What one key has used up.
#[derive(Debug, Clone, Copy)]
struct Used {
    count: u32,
    /// When the last of what came back did.
    since: Instant,
}

/// An allowance for each key, which comes back with time (a token bucket).
///
/// Invariants:
/// - in any span, a key gets at most the burst and what comes back in that span;
/// - only keys that have used something take memory, and never more than the bound.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    most: usize,
    used: BTreeMap<K, Used>,
}

impl<K: Ord> Buckets<K> {
    /// The same rate for every key; `most` keys are known at once, and others refused while all of those have used
    /// something.
    #[must_use]
    pub const fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, used: BTreeMap::new() }
    }

    /// Uses one; false where there is none left.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        let rate = self.rate;
        if self.used.len() >= self.most && !self.used.contains_key(&key) {
            self.used.retain(|_, used| rate.full_at(used.count, used.since).is_some_and(|at| at > now));
            if self.used.len() >= self.most {
                return false;
            }
        }
        let used = self.used.entry(key).or_insert(Used { count: 0, since: now });
        let passed = now.saturating_duration_since(used.since);
        let back = passed.as_nanos().checked_div(rate.every.as_nanos()).unwrap_or(0);
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        if back >= used.count {
            *used = Used { count: 0, since: now };
        } else {
            used.count = used.count.saturating_sub(back);
            used.since = rate.full_at(back, used.since).unwrap_or(now);
        }
        if used.count >= rate.burst {
            return false;
        }
        used.count = used.count.saturating_add(1);
        true
    }
}

/// Audit rows that others than the operator can cause: so many in a minute. The rest is counted, and the next row that is
/// stored says how many they were.
#[derive(Debug)]
pub struct AuditBudget {
    rows: u32,
    window: Instant,
    left: u32,
    suppressed: u64,
}

impl AuditBudget {
    /// Allows `rows` in each minute from `now` on.
    #[must_use]
    pub const fn new(rows: u32, now: Instant) -> Self {
        Self { rows, window: now, left: rows, suppressed: 0 }
    }

    /// Where a row may be stored, how many were not since the last one; `None` where it is only counted.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.left) = (now, self.rows);
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.suppress();
            return None;
        };
        self.left = left;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Counts a row that is not stored for another reason.
    pub const fn suppress(&mut self) {
        self.suppressed = self.suppressed.saturating_add(1);
    }
}

/// How long a refusal is old news.
const WINDOW: Duration = Duration::from_secs(60);

/// Refusals that are told in one window; what is beyond is only counted.
const TOLD: usize = 4096;

/// Which refusals were logged and audited in this minute, so that each agent's are once for each reason.
#[derive(Debug)]
pub struct Told {
    window: Instant,
    told: BTreeSet<(AgentId, &'static str)>,
}

impl Told {
    /// Nothing was told by `now`.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { window: now, told: BTreeSet::new() }
    }

    /// True where the refusal is to be told; it is not again before the minute is over.
    pub fn is_news(&mut self, agent: AgentId, reason: &'static str, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            *self = Self::new(now);
        }
        self.told.len() < TOLD && self.told.insert((agent, reason))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_millis(200) };

    #[test]
    fn the_next_row_says_how_many_were_not_stored() {
        let start = Instant::now();
        let mut budget = AuditBudget::new(3, start);
        let taken: Vec<_> = (0..10).map(|_| budget.take(start + millis(59_999))).collect();
        assert_eq!(taken, [vec![Some(0); 3], vec![None; 7]].concat());
        budget.suppress();
        assert_eq!(budget.take(start + millis(60_000)), Some(8));
        assert_eq!(budget.take(start + millis(60_000)), Some(0));
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_key_has_its_burst_and_then_its_rate_and_takes_nothing_from_others() {
        let start = Instant::now();
        let mut buckets = Buckets::new(RATE, 10);
        let mut taken = |key: u8, at: u64| (0..10).filter(|_| buckets.take(key, start + millis(at))).count();
        assert_eq!((taken(1, 0), taken(1, 199), taken(1, 200), taken(2, 200)), (3, 0, 1, 3));
        assert_eq!(
            (taken(1, 399), taken(1, 401), taken(1, 60_000)),
            (0, 1, 3),
            "no more than the burst comes back"
        );
    }

    #[test]
    fn keys_are_bounded_and_those_that_are_full_again_make_room() {
        let start = Instant::now();
        let mut buckets = Buckets::new(RATE, 4);
        let taken = (0..100u32).filter(|key| buckets.take(*key, start)).count();
        assert_eq!((taken, buckets.used.len()), (4, 4));
        assert!(buckets.take(0, start), "one that is known goes on");
        assert!(buckets.take(100, start + millis(200)));
        assert!(buckets.used.len() <= 4);
    }

    #[test]
    fn a_refusal_is_told_once_a_minute_for_each_agent_and_reason() {
        let start = Instant::now();
        let mut told = Told::new(start);
        let [one, other] = [1, 2].map(|byte| AgentId::from_bytes([byte; 16]));
        assert!(
            told.is_news(one, "a", start) && told.is_news(one, "b", start) && told.is_news(other, "a", start)
        );
        assert!(!told.is_news(one, "a", start + Duration::from_secs(59)));
        assert!(told.is_news(one, "a", start + Duration::from_secs(60)));
        for number in 0..10_000u32 {
            let mut bytes = [9; 16];
            bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(to, from)| *to = from);
            told.is_news(AgentId::from_bytes(bytes), "a", start + Duration::from_secs(61));
        }
        assert_eq!(told.told.len(), TOLD);
    }

    proptest! {
        #[test]
        fn no_span_gives_more_than_the_burst_and_what_comes_back(
            pauses in prop::collection::vec(0u64..500, 1..200)
        ) {
            let start = Instant::now();
            let (mut buckets, mut at, mut taken) = (Buckets::new(RATE, 1), 0, Vec::new());
            for pause in pauses {
                at += pause;
                if buckets.take((), start + millis(at)) {
                    taken.push(at);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let most = u64::from(RATE.burst) + (to - from) / 200 + 1;
                    prop_assert!(u64::try_from(last - first + 1).unwrap() <= most);
                }
            }
        }
    }
}
