//! Samples that went to the hub a moment ago: it acknowledges them before they are stored, and one that is killed has lost them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use blueprint_proto::v1;

/// How long a hub may take to store what it acknowledged: its longest `qos.write_every`, and some time for the write.
const STORED_AFTER: Duration = Duration::from_secs(330);

/// Most that are kept, the newest: more than there are in that time at a hub's fastest pace, one a second.
const MAX_REPORTS: usize = 512;

/// The samples that the hub of one epoch was given lately. A hub that is told one twice counts it once.
#[derive(Debug)]
pub(crate) struct Recent {
    epoch: u64,
    reports: VecDeque<(Instant, v1::QosReport)>,
}

impl Recent {
    /// Nothing was given to the hub of this epoch yet.
    pub(crate) const fn new(epoch: u64) -> Self {
        Self { epoch, reports: VecDeque::new() }
    }

    /// Notes what the hub was given.
    pub(crate) fn note(&mut self, report: v1::QosReport, now: Instant) {
        let is_stored =
            |(at, _): &(Instant, v1::QosReport)| now.saturating_duration_since(*at) > STORED_AFTER;
        while self.reports.front().is_some_and(is_stored) || self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back((now, report));
    }

    /// What the hub of before may not have stored, oldest first, where this is the epoch of another. That one had no more time
    /// after the last it was given, so it does not count how long no hub was there.
    pub(crate) fn unstored(&mut self, epoch: u64) -> Vec<v1::QosReport> {
        if std::mem::replace(&mut self.epoch, epoch) == epoch {
            return Vec::new();
        }
        std::mem::take(&mut self.reports).into_iter().map(|(_, report)| report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(time_millis: u64) -> v1::QosReport {
        v1::QosReport { time_millis, ..v1::QosReport::default() }
    }

    fn times(reports: &[v1::QosReport]) -> Vec<u64> {
        reports.iter().map(|report| report.time_millis).collect()
    }

    #[test]
    fn another_hub_is_given_again_what_the_one_before_may_have_lost_once() {
        let start = Instant::now();
        let mut recent = Recent::new(1);
        for number in 0..4u32 {
            recent.note(report(number.into()), start + STORED_AFTER / 2 * number);
        }
        assert!(recent.unstored(1).is_empty(), "the same hub");
        assert_eq!(times(&recent.unstored(2)), [1, 2, 3], "the first was stored before the last came");
        assert!(recent.unstored(2).is_empty() && recent.unstored(3).is_empty());
    }

    #[test]
    fn what_a_hub_had_no_time_to_store_is_kept_at_every_pace_and_however_long_it_is_away() {
        let start = Instant::now();
        for (pace, first) in [(1, 670), (5, 934)] {
            let mut recent = Recent::new(1);
            let at = |number: u32| start + Duration::from_secs(pace) * number;
            (0..1001).for_each(|number| recent.note(report(number.into()), at(number)));
            // It was killed here. What is sampled until the next hub is there is not noted, since nobody was given it.
            let given = times(&recent.unstored(2));
            assert_eq!(given, (first..1001).collect::<Vec<_>>(), "330 s");
            recent.note(report(2000), at(1000) + STORED_AFTER * 2);
            assert_eq!(times(&recent.unstored(3)), [2000]);
        }
    }

    #[test]
    fn no_more_than_the_bound_is_kept_whatever_the_pace() {
        let now = Instant::now();
        let mut recent = Recent::new(1);
        (0..1000).for_each(|number| recent.note(report(number), now));
        let kept = times(&recent.unstored(2));
        assert_eq!((kept.len(), kept.first()), (MAX_REPORTS, Some(&488)));
    }
}
