//! Where the lines of the other version are, where they stand in the ring of the one that serves.

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::workload::{
    Runs, Strategy, Update, Version, VersionOutcome, WorkloadRecord,
};

/// Runs whose lines are the other version's: the one that was replaced or taken back took the same place, one after the
/// other, as by `recreate` and by `workload run`. `None` where it had a place of its own. `versions` are those that are kept,
/// the newest first.
///
/// A run's generation is never less than the time at which its version was made.
pub(super) fn in_the_same_place(
    record: &WorkloadRecord,
    update: Option<&Update>,
    versions: &[Version],
) -> Option<Runs> {
    let before = |at: Timestamp| Runs { from: 0, before: Some(at.as_millis()) };
    if let Some(update) = update {
        return update.is_recreate().then(|| before(update.began_at));
    }
    let newest = versions.first()?;
    let is_recreate = newest.strategy == Strategy::Recreate.label();
    if newest.number != record.version {
        let is_back = matches!(newest.outcome, VersionOutcome::Failed | VersionOutcome::Aborted);
        let runs = Runs { from: newest.made_at.as_millis(), ..before(newest.decided_at) };
        return (is_back && is_recreate).then_some(runs);
    }
    let is_in_place = is_recreate || (newest.strategy == "run" && newest.number > 1);
    is_in_place.then(|| before(newest.made_at))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use blueprint_common_types::ServiceKey;
    use blueprint_hub_registry_core::workload::{Phase, UpdatePlan};

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn record(version: u32) -> WorkloadRecord {
        WorkloadRecord {
            service: SERVICE,
            generation: 500,
            document: "{}".to_owned(),
            nodes: BTreeSet::new(),
            node: None,
            keystore: None,
            changed_at: at(0),
            version,
            slot: 0,
        }
    }

    fn version(number: u32, strategy: &str, outcome: VersionOutcome) -> Version {
        Version {
            service: SERVICE,
            number,
            document: "{}".to_owned(),
            nodes: BTreeSet::new(),
            keystore: None,
            made_at: at(u64::from(number) * 100),
            by: String::new(),
            strategy: strategy.to_owned(),
            repeats: None,
            outcome,
            reason: String::new(),
            decided_at: at(u64::from(number) * 100 + 50),
        }
    }

    #[test]
    fn what_took_the_place_of_another_one_shares_its_lines() {
        use VersionOutcome::{Aborted, Current, Failed, Replaced};
        let of = |serving, newest: &[Version]| in_the_same_place(&record(serving), None, newest);
        let first = version(1, "run", Replaced);
        let until = |before| Some(Runs { from: 0, before: Some(before) });
        for strategy in ["recreate", "run"] {
            assert_eq!(of(2, &[version(2, strategy, Current), first.clone()]), until(200), "{strategy}");
        }
        assert_eq!(of(2, &[version(2, "blue-green", Current), first.clone()]), None);
        assert_eq!(of(1, &[version(1, "run", Current)]), None, "there was none before");
        assert_eq!(of(1, &[]), None, "a launcher's");
        // Taken back: what it wrote is between its start and the next one of the version that serves.
        for outcome in [Failed, Aborted] {
            let back = Some(Runs { from: 200, before: Some(250) });
            assert_eq!(of(1, &[version(2, "recreate", outcome), first.clone()]), back);
            assert_eq!(of(1, &[version(2, "canary", outcome), first.clone()]), None);
        }
        assert_eq!(until(200).map(|runs| [199, 200].map(|run| runs.has(run))), Some([true, false]));
    }

    #[test]
    fn during_a_recreate_the_other_one_is_the_one_before() {
        let update = |strategy| Update {
            service: SERVICE,
            from: 1,
            to: 2,
            plan: UpdatePlan { strategy, ..UpdatePlan::default() },
            phase: Phase::Starting,
            reason: String::new(),
            is_aborted: false,
            began_at: at(300),
            since: at(300),
            next: None,
            needs_target: false,
            is_covered: false,
            replicas: Vec::new(),
            rolled: 0,
        };
        let runs = in_the_same_place(&record(2), Some(&update(Strategy::Recreate)), &[]);
        assert_eq!(runs, Some(Runs { from: 0, before: Some(300) }));
    }
}
