//! Machines that end again and again: each is billed, so another is not ordered without a pause.

use std::time::Duration;

use blueprint_common_types::Timestamp;

use super::Why;
use crate::lifecycle::Record;

/// How long a machine has to stand to have done well: then what its offer failed by before is forgotten.
pub(super) const STAY: Duration = Duration::from_secs(3600);

/// How long a machine that did not do well counts.
const COUNTED: Duration = Duration::from_secs(6 * 3600);

/// First and longest pause; doubled with each round of machines.
const FIRST: Duration = Duration::from_secs(300);
const LONGEST: Duration = Duration::from_secs(3600);

/// A pause before the next machine of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// When the next may be ordered.
    pub(super) until: Timestamp,
    /// Machines whose agents joined and that ended soon after they were made, lately.
    pub(super) ended: usize,
}

/// The pause before the next machine beside `own`, the records of one deployment of `replicas`; `None` where none is due.
///
/// Every replica may be replaced once without a pause, so a bad hour of a cloud does not hold up what it took.
pub(super) fn pause(own: &[&Record], replicas: u32, now: Timestamp) -> Option<Pause> {
    let ends: Vec<Timestamp> = own.iter().filter_map(|record| short_life(record, now)).collect();
    let last = ends.iter().copied().max()?;
    let rounds = ends.len().saturating_sub(1) / usize::try_from(replicas.max(1)).unwrap_or(1);
    let doubled = u32::try_from(rounds.checked_sub(1)?).ok().and_then(|rounds| 1u32.checked_shl(rounds));
    let until = last.plus(FIRST.saturating_mul(doubled.unwrap_or(u32::MAX)).min(LONGEST));
    (until > now).then_some(Pause { until, ended: ends.len() })
}

/// When a machine ended that stood for a short time only, and lately.
fn short_life(record: &Record, now: Timestamp) -> Option<Timestamp> {
    // One that never joined says something of its offer, which is left out for a time.
    let began = record.made_at.filter(|_| record.agent.is_some() && !record.state.is_live())?;
    // What was one too many did not end by itself.
    if record.reason == Why::Surplus.label() {
        return None;
    }
    let end = record.deleted_at.unwrap_or(record.since);
    (end.since(began) < STAY && now.since(end) < COUNTED).then_some(end)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::AgentId;

    use super::*;
    use crate::lifecycle::RecordState;
    use crate::lifecycle::reconciler::tests::record;

    fn minutes(minutes: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + minutes * 60_000)
    }

    /// Machines that stood from the first minute to the second.
    fn ended(lives: &[(u64, u64)]) -> Vec<Record> {
        let life = |(number, &(from, to)): (u32, &(u64, u64))| Record {
            state: RecordState::Gone,
            agent: Some(AgentId::from_bytes([7; 16])),
            made_at: Some(minutes(from)),
            deleted_at: Some(minutes(to)),
            since: minutes(to + 1),
            ..record(number)
        };
        (1..).zip(lives).map(life).collect()
    }

    fn until(records: &[Record], replicas: u32, now: u64) -> Option<Timestamp> {
        let own: Vec<_> = records.iter().collect();
        pause(&own, replicas, minutes(now)).map(|pause| pause.until)
    }

    #[test]
    fn the_first_is_replaced_at_once_and_each_after_it_waits_twice_as_long() {
        let lives: Vec<_> = (0..8).map(|number| (number * 10, number * 10 + 5)).collect();
        let wait = |count: usize| {
            let records = ended(lives.get(..count).unwrap_or_default());
            let last = records.last().and_then(|record| record.deleted_at).unwrap();
            until(&records, 1, 75).map(|until| until.since(last).as_secs() / 60)
        };
        assert_eq!(wait(1), None);
        // Those whose pause is over do not wait either.
        assert_eq!((5..=8).map(wait).collect::<Vec<_>>(), [Some(40), Some(60), Some(60), Some(60)]);
        assert_eq!(until(&ended(&lives[..2]), 1, 19), Some(minutes(20)));
        assert_eq!(until(&ended(&lives[..2]), 1, 20), None);
    }

    #[test]
    fn what_stood_long_or_ended_long_ago_does_not_count_and_each_replica_has_a_go() {
        assert_eq!(until(&ended(&[(0, 60), (0, 61), (0, 90)]), 1, 91), None);
        assert_eq!(until(&ended(&[(0, 5), (5, 9), (9, 12)]), 1, 12 + 361), None);
        let incident: Vec<_> = (0..10).map(|_| (0, 30)).collect();
        assert_eq!(until(&ended(&incident), 10, 31), None);
        let again: Vec<_> = (0..11).map(|_| (0, 30)).collect();
        assert_eq!(until(&ended(&again), 10, 31), Some(minutes(35)));
    }

    #[test]
    fn what_never_joined_does_not_count() {
        let mut records = ended(&[(0, 5), (5, 9), (9, 12)]);
        records.iter_mut().for_each(|record| record.agent = None);
        assert_eq!(until(&records, 1, 12), None);
    }
}
