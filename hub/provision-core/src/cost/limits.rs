//! How much may be ordered at once, and spent in a month.

use std::time::Duration;

use blueprint_common_types::{Micros, Timestamp};

use super::{Span, month_end, month_of, sum_by};
use crate::Candidate;
use crate::catalogue::Day;
use crate::lifecycle::{Deployment, Record, RecordState, Records, Wanted};

/// The simulated cloud, whose prices are play money.
const SIM: &str = "sim";

/// What all deployments together may come to; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Machines that stand or are wanted.
    pub max_machines: Option<u32>,
    /// What an hour of them costs, in US dollars.
    pub max_hourly: Option<Micros>,
    /// What a calendar month costs, in US dollars: what was spent in it, and what stands to its end.
    pub max_monthly: Option<Micros>,
    /// What an hour of all machines of one order may cost, in US dollars; also where it grows. Machines of every cloud count.
    pub max_order_hourly: Option<Micros>,
    /// Whether machines of the simulated cloud count.
    pub counts_sim: bool,
}

/// How much there is, or is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Machines.
    pub machines: u32,
    /// What an hour of them costs.
    pub hourly: Micros,
    /// What they cost in this calendar month.
    pub month: Micros,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            machines: self.machines.saturating_add(other.machines),
            hourly: self.hourly.plus(other.hourly),
            month: self.month.plus(other.month),
        }
    }
}

/// More is asked for than a limit leaves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {limit}: {used} is used, and {asked} more is asked for")]
pub struct OverLimit {
    /// The setting that says so.
    pub setting: &'static str,
    /// The limit.
    pub limit: String,
    /// What of it is used.
    pub used: String,
    /// What is asked for.
    pub asked: String,
}

impl Limits {
    /// Whether machines of `provider` count.
    #[must_use]
    pub fn counts(&self, provider: &str) -> bool {
        self.counts_sim || provider != SIM
    }

    /// Whether `asked` may come to what is `used`.
    ///
    /// # Errors
    ///
    /// [`OverLimit`] for the first limit that it does not keep.
    pub fn check(&self, used: Usage, asked: Usage) -> Result<(), OverLimit> {
        let sum = used.plus(asked);
        let over = |setting, limit: String, used: String, asked: String| {
            Err(OverLimit { setting, limit, used, asked })
        };
        let money = |amount: Micros| format!("${amount}");
        if let Some(limit) = self.max_machines.filter(|limit| sum.machines > *limit && asked.machines > 0) {
            let counts = [limit, used.machines, asked.machines].map(|count| count.to_string());
            let [limit, used, asked] = counts;
            return over("provision.max_machines", limit, used, asked);
        }
        if let Some(limit) =
            self.max_hourly.filter(|limit| sum.hourly > *limit && asked.hourly > Micros::ZERO)
        {
            return over(
                "provision.max_hourly",
                money(limit),
                money(used.hourly),
                format!("{} an hour", money(asked.hourly)),
            );
        }
        if let Some(limit) = self.max_monthly.filter(|limit| sum.month > *limit && asked.month > Micros::ZERO)
        {
            return over(
                "provision.max_monthly",
                money(limit),
                format!("{} for this month", money(used.month)),
                money(asked.month),
            );
        }
        Ok(())
    }

    /// What a deployment adds where it is new: its replicas, at the prices of the offers that are ordered first.
    #[must_use]
    pub fn asked(&self, deployment: &Deployment, now: Timestamp) -> Usage {
        self.priced(&deployment.spread.layout(&deployment.plan, deployment.replicas), deployment, now)
    }

    /// What `more` machines add to a deployment beside those that stand and those that are wanted of it already.
    ///
    /// # Errors
    ///
    /// [`OverLimit`] where all of its machines together would come to more than one order may.
    pub fn asked_more(
        &self,
        records: &Records,
        deployment: &Deployment,
        more: u32,
        now: Timestamp,
    ) -> Result<Usage, OverLimit> {
        let (beside, next) = beside_and_next(records, deployment, more);
        let sum = |offers: &[&Candidate]| offers.iter().map(|offer| offer.hourly).sum::<Micros>();
        let (used, asked) = (sum(&beside), sum(&next));
        match self.max_order_hourly {
            Some(limit) if used.plus(asked) > limit => Err(OverLimit {
                setting: "provision.max_order_hourly",
                limit: format!("${limit}"),
                used: format!("${used}"),
                asked: format!("${asked} an hour"),
            }),
            Some(_) | None => Ok(self.priced(&next, deployment, now)),
        }
    }

    /// What new machines add.
    fn priced(&self, offers: &[&Candidate], deployment: &Deployment, now: Timestamp) -> Usage {
        let counted: Vec<_> = offers.iter().filter(|offer| self.counts(&offer.provider)).collect();
        let hourly = counted.iter().map(|offer| offer.hourly).sum();
        let machines = u32::try_from(counted.len()).unwrap_or(u32::MAX);
        Usage { machines, hourly, month: over(hourly, deployment, now) }
    }

    /// Whether one more machine may be called for: `record`, which is one of `records`.
    ///
    /// # Errors
    ///
    /// As for [`Self::check`]. What the deployment was admitted for is not asked of the month again: only one that is spent
    /// stops it.
    pub fn check_call(
        &self,
        records: &Records,
        spans: &[Span],
        record: &Record,
        now: Timestamp,
    ) -> Result<(), OverLimit> {
        if !self.counts(&record.candidate.provider) {
            return Ok(());
        }
        let mut used = Usage { month: self.spent(spans, now), ..Usage::default() };
        for other in records.instances.values().filter(|other| other.key != record.key) {
            if is_paid(other) && self.counts(&other.candidate.provider) {
                used.machines = used.machines.saturating_add(1);
                used.hourly = used.hourly.plus(price(other));
            }
        }
        // An hour of it: the least that most clouds bill.
        let hourly = record.candidate.hourly;
        self.check(used, Usage { machines: 1, hourly, month: hourly })
    }

    /// What was spent in the calendar month of `now`.
    #[must_use]
    pub fn spent(&self, spans: &[Span], now: Timestamp) -> Micros {
        let month = month_of(Day::from(now));
        let counted = spans.iter().filter(|span| self.counts(&span.provider));
        let sums = sum_by(counted, now, |_, day| (month_of(day) == month).then_some(()));
        sums.into_values().sum()
    }
}

/// The offers that `more` machines of a deployment would be ordered of first, beside those that stand or are wanted.
#[must_use]
pub fn next_offers<'r>(records: &'r Records, deployment: &'r Deployment, more: u32) -> Vec<&'r Candidate> {
    beside_and_next(records, deployment, more).1
}

/// What stands, and what is wanted of all deployments: machines that are to come count at the price of the offers that are
/// ordered next, as the deployment is spread.
#[must_use]
pub fn committed(records: &Records, spans: &[Span], limits: &Limits, now: Timestamp) -> Usage {
    let mut used = Usage { month: limits.spent(spans, now), ..Usage::default() };
    for deployment in records.deployments.values() {
        let (stand, missing) = laid(records, deployment);
        let (mut machines, mut hourly) = (0u32, Micros::ZERO);
        let mut add = |provider: &str, price: Micros| {
            if limits.counts(provider) {
                machines = machines.saturating_add(1);
                hourly = hourly.plus(price);
            }
        };
        let is_over = deployment.expires_at.is_some_and(|end| end <= now);
        let is_to_come = deployment.wanted == Wanted::Running && !is_over;
        for record in stand.into_iter().filter(|record| is_to_come || is_paid(record)) {
            add(&record.candidate.provider, price(record));
        }
        for offer in missing.into_iter().filter(|_| is_to_come) {
            add(&offer.provider, offer.hourly);
        }
        used = used.plus(Usage { machines, hourly, month: over(hourly, deployment, now) });
    }
    used
}

/// The machines of a deployment that stand or are planned, and the offers of those that are wanted and have no record.
fn laid<'r>(records: &'r Records, deployment: &'r Deployment) -> (Vec<&'r Record>, Vec<&'r Candidate>) {
    let own = records.instances.values().filter(|record| record.deployment == deployment.id);
    let stand: Vec<&Record> =
        own.filter(|record| is_paid(record) || record.state == RecordState::Planned).collect();
    let kept = stand.iter().filter(|record| stays(record));
    let taken: Vec<&Candidate> = kept.map(|record| &record.candidate).collect();
    let missing = deployment.replicas.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
    let missing = deployment.spread.next(&deployment.plan, &taken, missing);
    (stand, missing)
}

/// Where the machines of a deployment are that stand or are wanted, and where `more` would be.
fn beside_and_next<'r>(
    records: &'r Records,
    deployment: &'r Deployment,
    more: u32,
) -> (Vec<&'r Candidate>, Vec<&'r Candidate>) {
    let (stand, missing) = laid(records, deployment);
    let kept = stand.into_iter().filter(|record| stays(record));
    let mut beside: Vec<&Candidate> = kept.map(|record| &record.candidate).collect();
    beside.extend(missing);
    let next = deployment.spread.next(&deployment.plan, &beside, more);
    (beside, next)
}

/// False for what is paid for only until it is deleted.
fn stays(record: &Record) -> bool {
    record.state != RecordState::Deleting
}

/// True where a machine stands at its cloud, or may.
const fn is_paid(record: &Record) -> bool {
    match record.state {
        RecordState::Calling | RecordState::Created | RecordState::Active | RecordState::Deleting => true,
        RecordState::Planned | RecordState::Gone | RecordState::Lost | RecordState::Failed => false,
    }
}

/// What an hour of a machine costs as it is.
const fn price(record: &Record) -> Micros {
    if record.is_off { record.candidate.stopped_hourly } else { record.candidate.hourly }
}

/// What `hourly` comes to from `now` to the end of the month, or of the deployment where that is earlier.
fn over(hourly: Micros, deployment: &Deployment, now: Timestamp) -> Micros {
    let end = deployment.expires_at.map_or(month_end(now), |end| end.min(month_end(now)));
    let left: Duration = if deployment.wanted == Wanted::Gone { Duration::ZERO } else { end.since(now) };
    hourly.share(left.as_secs(), 3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Spread;
    use crate::lifecycle::tests::{deployment, record};

    const HOUR: Duration = Duration::from_secs(3600);
    /// 2026-11-30T14:00:00Z, ten hours before the month ends.
    const NOW: Timestamp = Timestamp::from_millis(1_796_047_200_000);

    fn limits() -> Limits {
        Limits {
            max_machines: Some(4),
            max_hourly: Some(Micros::new(30_000)),
            max_monthly: Some(Micros::new(400_000)),
            max_order_hourly: None,
            counts_sim: true,
        }
    }

    fn records(states: &[RecordState]) -> Records {
        let deployment = Deployment { replicas: 2, expires_at: None, ..deployment() };
        let mut records = Records::default();
        for (number, state) in (1..).zip(states) {
            let record = Record { state: *state, ..record(number) };
            records.instances.insert(record.key.clone(), record);
        }
        records.deployments.insert(deployment.id.clone(), deployment);
        records
    }

    fn spans(records: &Records, hours: u32) -> Vec<Span> {
        let span = |record: &Record| Span {
            key: record.key.clone(),
            deployment: record.deployment.clone(),
            provider: "sim".to_owned(),
            from: Timestamp::from_millis(NOW.as_millis() - u64::from(hours) * 3_600_000),
            until: None,
            is_off: false,
            hourly: record.candidate.hourly,
        };
        records.instances.values().map(span).collect()
    }

    #[test]
    fn what_stands_and_what_is_to_come_is_used() {
        use RecordState::{Active, Deleting, Failed, Planned};
        let used = |states: &[RecordState]| committed(&records(states), &[], &limits(), NOW);
        // 5000 an hour each, ten hours to the end of the month.
        let of = |machines: u32| {
            let hourly = Micros::new(5000).times(machines.into());
            Usage { machines, hourly, month: hourly.times(10) }
        };
        assert_eq!(used(&[]), of(2), "what was admitted and not ordered yet");
        assert_eq!(used(&[Active, Planned, Failed]), of(2));
        assert_eq!(used(&[Active, Active, Deleting]), of(3));
        let records = records(&[Active, Active]);
        let spent = committed(&records, &spans(&records, 3), &limits(), NOW);
        assert_eq!(spent.month, Micros::new(2 * 5000 * 13));
        let free = Limits { counts_sim: false, ..limits() };
        assert_eq!(committed(&records, &spans(&records, 3), &free, NOW), Usage::default());
    }

    #[test]
    fn what_a_spread_deployment_grows_by_has_the_price_of_where_it_grows() {
        use RecordState::Active;
        let mut records = records(&[Active]);
        let mut known = records.deployments.values().next().cloned().unwrap();
        let near = record(1).candidate;
        let far = Candidate { region: "far".to_owned(), hourly: Micros::new(9000), ..near.clone() };
        known.spread = Spread::Regions;
        known.plan = vec![near, far];
        records.deployments.insert(known.id.clone(), known.clone());
        // One stands near at 5000; the one that is missing comes far.
        assert_eq!(committed(&records, &[], &limits(), NOW).hourly, Micros::new(14_000));
        let asked = |more, limits: Limits| limits.asked_more(&records, &known, more, NOW);
        let usage = asked(2, limits()).unwrap();
        assert_eq!((usage.machines, usage.hourly), (2, Micros::new(14_000)), "near and far");
        known.replicas = 1;
        let asked = |more, limits: Limits| limits.asked_more(&records, &known, more, NOW);
        assert_eq!(asked(1, limits()).unwrap().hourly, Micros::new(9000), "far, and not near again");
        let limits = Limits { max_order_hourly: Some(Micros::new(14_000)), ..limits() };
        assert!(asked(1, limits).is_ok());
        let error = asked(2, limits).unwrap_err().to_string();
        assert!(error.starts_with("provision.max_order_hourly is $0.014: $0.005 is used"), "{error}");
    }

    #[test]
    fn each_limit_refuses_what_goes_beyond_it_and_says_so() {
        let used = Usage { machines: 2, hourly: Micros::new(10_000), month: Micros::new(100_000) };
        let asked = |machines, hourly, month| Usage {
            machines,
            hourly: Micros::new(hourly),
            month: Micros::new(month),
        };
        assert_eq!(limits().check(used, asked(2, 20_000, 300_000)), Ok(()));
        for (asked, setting) in [
            (asked(3, 0, 0), "provision.max_machines is 4: 2 is used, and 3 more is asked for"),
            (asked(0, 20_001, 0), "provision.max_hourly is $0.03: $0.01 is used, and $0.020001 an hour more"),
            (asked(0, 0, 300_001), "provision.max_monthly is $0.40: $0.10 for this month is used"),
        ] {
            let error = limits().check(used, asked).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
        assert_eq!(Limits::default().check(used, asked(u32::MAX, u64::MAX, u64::MAX)), Ok(()));
        let beyond = Usage { machines: 9, ..used };
        assert_eq!(
            limits().check(beyond, asked(0, 1, 1)),
            Ok(()),
            "what costs no machine is not held up by them"
        );
    }

    #[test]
    fn a_call_is_held_to_what_is_paid_now_and_to_a_month_that_is_spent() {
        use RecordState::{Active, Deleting, Planned};
        let all = records(&[Active, Active, Deleting, Deleting, Planned]);
        let next = all.instances.values().last().cloned().unwrap();
        let error = limits().check_call(&all, &[], &next, NOW).unwrap_err();
        assert_eq!(error.setting, "provision.max_machines", "it waits until the others are gone");
        let two = records(&[Active, Planned]);
        let next = two.instances.values().last().cloned().unwrap();
        assert_eq!(limits().check_call(&two, &spans(&two, 39), &next, NOW), Ok(()));
        let error = limits().check_call(&two, &spans(&two, 40), &next, NOW).unwrap_err();
        assert_eq!(error.setting, "provision.max_monthly");
        assert_eq!(limits().asked(&deployment(), NOW).machines, 1);
        let short = Deployment { expires_at: Some(NOW.plus(HOUR)), ..deployment() };
        assert_eq!(limits().asked(&short, NOW).month, Micros::new(5000));
    }
}
