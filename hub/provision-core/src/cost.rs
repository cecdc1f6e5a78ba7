//! What ordered machines cost: from the call that their cloud accepted, or its first sight of them, to their confirmed end, at
//! the price that was frozen when they were ordered.
//!
//! A machine has one [`Span`] for each time that it ran and, where that has another price, for each time that it was kept
//! switched off. Spans outlive the records of machines and deployments.

pub mod alert;
mod desk;
pub mod egress;
mod limits;

use std::collections::BTreeMap;

use blueprint_common_types::{Micros, Timestamp};

use crate::catalogue::Day;
use crate::estimate::billed_secs;
use crate::lifecycle::{Deployment, Wanted};
use crate::{DeploymentId, InstanceKey};

pub use desk::{CostDesk, CostDeskError, CostStore, Deliveries, Set, SetAlertError, Told};
pub use limits::{Limits, OverLimit, Usage, committed, next_offers};

const DAY_MS: u64 = 86_400_000;

/// A time for which a machine is billed at one price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which machine.
    pub key: InstanceKey,
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Of which provider.
    pub provider: String,
    /// When it began.
    pub from: Timestamp,
    /// When it ended; `None` while it goes on.
    pub until: Option<Timestamp>,
    /// Whether the machine was switched off.
    pub is_off: bool,
    /// Price of an hour in US dollars.
    pub hourly: Micros,
}

impl Span {
    /// What it costs up to `now`, as its provider bills it: a started part whole, and at least the minimum.
    #[must_use]
    pub fn total(&self, now: Timestamp) -> Micros {
        let millis = self.end(now).since(self.from).as_millis();
        let secs = u64::try_from(millis.div_ceil(1000)).unwrap_or(u64::MAX);
        let billed = if self.is_off { secs } else { billed_secs(&self.provider, secs) };
        self.hourly.share(billed, 3600)
    }

    /// The same by days, which add up to [`Self::total`]; what is billed beyond the time itself counts for the last day.
    #[must_use]
    pub fn by_day(&self, now: Timestamp) -> Vec<(Day, Micros)> {
        let end = self.end(now);
        let total = self.total(now);
        let until = |at: Timestamp| {
            let millis = u64::try_from(at.since(self.from).as_millis()).unwrap_or(u64::MAX);
            self.hourly.share(millis, 3_600_000)
        };
        let mut days = Vec::new();
        let (mut begin, mut told) = (self.from, Micros::ZERO);
        loop {
            let next = Timestamp::from_millis((begin.as_millis() / DAY_MS).saturating_add(1) * DAY_MS);
            if next >= end {
                days.push((Day::from(begin), total.minus(told)));
                return days;
            }
            let so_far = until(next).min(total);
            days.push((Day::from(begin), so_far.minus(told)));
            (begin, told) = (next, so_far);
        }
    }

    fn end(&self, now: Timestamp) -> Timestamp {
        self.until.unwrap_or(now).max(self.from)
    }
}

/// Sums of what `spans` cost up to `now`, by whatever `key` makes of them; what it gives `None` for is left out.
pub fn sum_by<'s, K: Ord>(
    spans: impl IntoIterator<Item = &'s Span>,
    now: Timestamp,
    key: impl Fn(&Span, Day) -> Option<K>,
) -> BTreeMap<K, Micros> {
    let mut sums: BTreeMap<K, Micros> = BTreeMap::new();
    for span in spans {
        for (day, amount) in span.by_day(now) {
            if let Some(key) = key(span, day) {
                let sum = sums.entry(key).or_default();
                *sum = sum.plus(amount);
            }
        }
    }
    sums
}

/// What `deployment` was to cost up to `now` by its plan: every replica at the price of the first offer from its beginning on.
#[must_use]
pub fn estimate(deployment: &Deployment, now: Timestamp) -> Micros {
    let mut end = deployment.expires_at.map_or(now, |end| end.min(now));
    if deployment.wanted == Wanted::Gone {
        end = end.min(deployment.changed_at);
    }
    let secs = end.since(deployment.created_at).as_secs();
    let hourly = deployment.plan.first().map_or(Micros::ZERO, |first| first.hourly);
    hourly.times(deployment.replicas.into()).share(secs, 3600)
}

/// The calendar month of `day` in UTC, as `YYYY-MM`.
#[must_use]
pub fn month_of(day: Day) -> String {
    day.to_string().chars().take(7).collect()
}

/// When the day of `now` ends, in UTC.
#[must_use]
pub const fn day_end(now: Timestamp) -> Timestamp {
    Timestamp::from_millis((now.as_millis() / DAY_MS).saturating_add(1).saturating_mul(DAY_MS))
}

/// When the calendar month of `now` ends, in UTC.
#[must_use]
pub fn month_end(now: Timestamp) -> Timestamp {
    let month = month_of(Day::from(now));
    let mut day = now.as_millis() / DAY_MS;
    // At most 31 steps.
    while month_of(Day::from(Timestamp::from_millis(day * DAY_MS))) == month {
        day += 1;
    }
    Timestamp::from_millis(day * DAY_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// 2026-11-30T23:00:00Z.
    const LATE: u64 = 1_796_079_600_000;
    const HOUR: u64 = 3_600_000;

    fn span(provider: &str, from: u64, until: Option<u64>) -> Span {
        let deployment = DeploymentId::from_bytes([1; 10]);
        Span {
            key: InstanceKey::of(&deployment, 1),
            deployment,
            provider: provider.to_owned(),
            from: Timestamp::from_millis(from),
            until: until.map(Timestamp::from_millis),
            is_off: false,
            hourly: Micros::new(60_000),
        }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_started_part_and_the_minimum_are_billed_as_the_provider_does_it() {
        for (provider, millis, micros) in [
            ("vultr", 1, 60_000),
            ("vultr", HOUR, 60_000),
            ("vultr", HOUR + 1, 120_000),
            ("aws", 1, 1000),
            ("aws", 61_000, 1017),
            ("aws", HOUR, 60_000),
            ("nobody", HOUR / 2, 30_000),
        ] {
            let total = span(provider, LATE, Some(LATE + millis)).total(at(u64::MAX));
            assert_eq!(total.get(), micros, "{provider} {millis}");
        }
        let off = Span { is_off: true, ..span("vultr", LATE, Some(LATE + 60_000)) };
        assert_eq!(off.total(at(LATE)).get(), 1000, "its hour was billed when it was switched on");
    }

    #[test]
    fn days_and_months_end_at_midnight_in_utc() {
        let span = span("aws", LATE, None);
        let days = span.by_day(at(LATE + 25 * HOUR + 1));
        let text: Vec<_> = days.iter().map(|(day, amount)| (day.to_string(), amount.get())).collect();
        let expected = [("2026-11-30", 60_000), ("2026-12-01", 24 * 60_000), ("2026-12-02", 17)];
        assert_eq!(text, expected.map(|(day, amount)| (day.to_owned(), amount)));
        assert_eq!(month_end(at(LATE)), at(LATE + HOUR));
        assert_eq!(month_end(at(LATE + HOUR)), at(LATE + HOUR + 31 * 24 * HOUR));
        let sums = sum_by([&span], at(LATE + 2 * HOUR), |_, day| Some(month_of(day)));
        assert_eq!(sums.into_values().map(Micros::get).collect::<Vec<_>>(), [60_000, 60_000]);
        let first = Day::from(at(LATE));
        let sums = sum_by([&span], at(LATE + 2 * HOUR), |_, day| (day == first).then_some(()));
        assert_eq!(sums.get(&()).map(|sum| sum.get()), Some(60_000));
    }

    #[test]
    fn the_estimate_goes_by_the_plan_and_ends_with_the_deployment() {
        use crate::lifecycle::tests::deployment;
        let (asked, hour) = (deployment(), std::time::Duration::from_secs(3600));
        let after = |hours: u32| asked.created_at.plus(hour * hours);
        assert_eq!(estimate(&asked, after(1)).get(), 5000);
        assert_eq!(estimate(&asked, after(9)).get(), 10_000, "it lives two hours");
        let ended = Deployment { wanted: Wanted::Gone, changed_at: after(1), ..asked.clone() };
        assert_eq!(estimate(&ended, after(2)).get(), 5000);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn days_add_up_to_the_whole_and_the_meter_never_goes_back(
            provider in 0..3usize, from in 0..40 * 24 * HOUR, long in 0..40 * 24 * HOUR, more in 0..HOUR, hourly in 0..5_000_000u64,
        ) {
            let provider = ["vultr", "aws", "nobody"][provider];
            let span = Span { hourly: Micros::new(hourly), ..span(provider, LATE + from, None) };
            let now = at(LATE + from + long);
            let days = span.by_day(now);
            prop_assert_eq!(days.iter().map(|(_, amount)| *amount).sum::<Micros>(), span.total(now));
            prop_assert!(days.is_sorted_by_key(|(day, _)| *day));
            prop_assert!(span.total(now) <= span.total(at(LATE + from + long + more)));
        }
    }
}
