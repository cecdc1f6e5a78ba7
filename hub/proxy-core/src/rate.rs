//! How often somebody may do something: one bucket per key, a bounded number of buckets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Buckets kept at once; those that are full again go first.
const MAX_BUCKETS: usize = 16 * 1024;

/// So many at once, and then one every `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many may come together.
    pub burst: u32,
    /// Time until the next one is allowed.
    pub interval: Duration,
}

impl Rate {
    /// `count` in every `time`, of which all may come together.
    #[must_use]
    pub fn per(count: u32, time: Duration) -> Self {
        Self { burst: count, interval: time.checked_div(count).unwrap_or(time) }
    }
}

/// Generic cell rate algorithm: for each key the time at which its bucket is full again.
#[derive(Debug)]
pub struct RateTable<K> {
    full_at: BTreeMap<K, Instant>,
    /// Shared by all keys for which no room is left, so that a flood of keys cannot lock anybody out for good.
    overflow: Option<Instant>,
    rate: Rate,
}

impl<K: Ord> RateTable<K> {
    /// An empty table.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { full_at: BTreeMap::new(), overflow: None, rate }
    }

    /// Takes one from the bucket of `key`.
    ///
    /// # Errors
    ///
    /// How long until it has one again.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        self.take_at(key, self.rate, now)
    }

    /// The same at a rate of its own. Where it changed, no more is owed than its burst.
    ///
    /// # Errors
    ///
    /// How long until it has one again.
    pub fn take_at(&mut self, key: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        if self.full_at.len() >= MAX_BUCKETS && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let has_room = self.full_at.len() < MAX_BUCKETS || self.full_at.contains_key(&key);
        let held = if has_room { self.full_at.get(&key).copied() } else { self.overflow };
        let most = now + rate.interval.saturating_mul(rate.burst);
        let owed = held.map_or(now, |full_at| full_at.min(most).max(now));
        let next = owed + rate.interval;
        let passes = next <= most;
        let full_at = if passes { next } else { owed };
        if has_room {
            self.full_at.insert(key, full_at);
        } else {
            self.overflow = Some(full_at);
        }
        if passes { Ok(()) } else { Err(next.saturating_duration_since(most)) }
    }

    /// Puts back what was taken at that rate.
    pub fn give_back(&mut self, key: &K, rate: Rate) {
        if let Some(full_at) = self.full_at.get_mut(key) {
            *full_at = full_at.checked_sub(rate.interval).unwrap_or(*full_at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let start = Instant::now();
        let mut table = RateTable::new(Rate { burst: 3, interval: Duration::from_secs(2) });
        for _ in 0..3 {
            assert_eq!(table.take("a", start), Ok(()));
        }
        assert_eq!(table.take("a", start), Err(Duration::from_secs(2)));
        assert_eq!(table.take("b", start), Ok(()), "others have buckets of their own");
        assert_eq!(table.take("a", start + Duration::from_secs(2)), Ok(()));
        assert!(table.take("a", start + Duration::from_secs(2)).is_err());
        for _ in 0..3 {
            assert_eq!(table.take("a", start + Duration::from_secs(60)), Ok(()));
        }
    }

    #[test]
    fn a_flood_of_keys_takes_bounded_room_and_shares_one_bucket() {
        let start = Instant::now();
        let mut table = RateTable::new(Rate { burst: 1, interval: Duration::from_secs(1) });
        for key in 0..MAX_BUCKETS {
            assert_eq!(table.take(key, start), Ok(()));
        }
        assert_eq!(table.take(MAX_BUCKETS, start), Ok(()));
        assert!(table.take(MAX_BUCKETS + 1, start).is_err());
        assert_eq!(table.full_at.len(), MAX_BUCKETS);
        assert_eq!(table.take(MAX_BUCKETS + 1, start + Duration::from_secs(2)), Ok(()));
        assert_eq!(table.full_at.len(), 1, "buckets that are full again were forgotten");
    }
}
