//! How long what is open at a target has been open, in a bounded number of counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// From this age on, within one step of the counts, a request or a connection is one that lasts: it asks for a place at its
/// target, and says nothing by having begun.
pub const LASTING: Duration = Duration::from_secs(30);

/// What began within one of these counts together.
const STEP: Duration = Duration::from_secs(5);

/// Most counts; the oldest are put together. More than twice as many as [`LASTING`] has steps.
const MOST: usize = 16;

/// Open requests by when they began.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<Instant, u32>);

impl Ages {
    /// One begins; gives what it is counted under.
    pub(super) fn begin(&mut self, now: Instant) -> Instant {
        if let Some((at, count)) = self.0.iter_mut().next_back()
            && now.saturating_duration_since(*at) < STEP
        {
            *count = count.saturating_add(1);
            return *at;
        }
        self.0.insert(now, 1);
        while self.0.len() > MOST {
            let Some((_, more)) = self.0.pop_first() else { break };
            if let Some(mut next) = self.0.first_entry() {
                *next.get_mut() = next.get().saturating_add(more);
            }
        }
        now
    }

    /// One that was counted under `at` ends.
    pub(super) fn end(&mut self, at: Instant) {
        // Where its count was put to another one, that is the oldest.
        let key = if self.0.contains_key(&at) { Some(at) } else { self.0.keys().next().copied() };
        let Some(key) = key else { return };
        if let Some(count) = self.0.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// How many have been open for [`LASTING`].
    pub(super) fn lasting(&self, now: Instant) -> u32 {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= LASTING;
        self.0.iter().filter(|(at, _)| is_old(**at)).fold(0u32, |sum, (_, count)| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant has no other beginning; the test adds to it")]
    fn what_lasts_is_told_apart_and_the_counts_stay_few() {
        let (mut ages, began) = (Ages::default(), Instant::now());
        let at = |secs: u64| began + Duration::from_secs(secs);
        let stream = ages.begin(at(0));
        for second in 0..600u64 {
            let short = ages.begin(at(second));
            ages.end(short);
        }
        assert_eq!((ages.lasting(at(29)), ages.lasting(at(600))), (0, 1));
        // One stream every six seconds, for ten minutes.
        let streams: Vec<Instant> = (0..100u64).map(|number| ages.begin(at(600 + 6 * number))).collect();
        assert!(ages.0.len() <= MOST, "{}", ages.0.len());
        assert_eq!(ages.lasting(at(1200)), 1 + 96);
        assert_eq!(ages.lasting(at(1300)), 101);
        for one in streams.into_iter().rev().chain([stream]) {
            ages.end(one);
        }
        assert_eq!((ages.lasting(at(5000)), ages.0.len()), (0, 0));
        ages.end(at(1));
    }
}
