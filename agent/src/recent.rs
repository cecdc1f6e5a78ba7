//! Samples that went to the hub a moment ago: it acknowledges them before they are stored, and one that is killed has lost them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use blueprint_proto::v1;

/// How long a hub may take to store what it acknowledged: its longest `qos.write_every`, and some time for the write.
const STORED_AFTER: Duration = Duration::from_secs(330);

/// Most that are kept, the newest: one call's worth.
const MAX_REPORTS: usize = 64;

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

    /// What the hub of before may not have stored, oldest first, where this is the epoch of another.
    pub(crate) fn unstored(&mut self, epoch: u64, now: Instant) -> Vec<v1::QosReport> {
        if std::mem::replace(&mut self.epoch, epoch) == epoch {
            return Vec::new();
        }
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) <= STORED_AFTER;
        let all = std::mem::take(&mut self.reports);
        all.into_iter().filter(|(at, _)| is_fresh(at)).map(|(_, report)| report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(time_millis: u64) -> v1::QosReport {
        v1::QosReport { time_millis, ..v1::QosReport::default() }
    }

    #[test]
    fn another_hub_is_given_again_what_the_one_before_may_have_lost_once() {
        let start = Instant::now();
        let mut recent = Recent::new(1);
        let second = Duration::from_secs(1);
        for number in 0..3u32 {
            recent.note(report(number.into()), start + STORED_AFTER / 2 * number);
        }
        let now = start + STORED_AFTER + second;
        assert!(recent.unstored(1, now).is_empty(), "the same hub");
        let times: Vec<_> = recent.unstored(2, now).iter().map(|report| report.time_millis).collect();
        assert_eq!(times, [1, 2], "the first is stored long since");
        assert!(recent.unstored(2, now).is_empty() && recent.unstored(3, now).is_empty());
    }

    #[test]
    fn no_more_than_one_calls_worth_is_kept() {
        let now = Instant::now();
        let mut recent = Recent::new(1);
        (0..1000).for_each(|number| recent.note(report(number), now));
        let kept = recent.unstored(2, now);
        assert_eq!((kept.len(), kept.first().map(|report| report.time_millis)), (MAX_REPORTS, Some(936)));
    }
}
