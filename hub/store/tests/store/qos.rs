//! History of quality of service: what is counted once, what outlives a restart, what goes.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::Store;
use blueprint_hub_registry_core::qos::{
    Batch, Keep, Mark, Objective, ObjectiveOf, Past, QosStore, Seen, Step, Subject, Written,
};
use blueprint_hub_store::SqliteStore;

use crate::support::{NOW, store};

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: u64::MAX };
const HOUR: Duration = Duration::from_secs(3600);
const ALL: (Timestamp, Timestamp) = (Timestamp::from_millis(0), Timestamp::from_millis(1 << 50));

fn agent() -> AgentId {
    AgentId::from_bytes([9; 16])
}

fn target(port: u16) -> Subject {
    Subject::Target(TargetKey { service: SERVICE, agent: agent(), port })
}

fn mark(at: Timestamp, memory: u64) -> Mark {
    Mark { at, memory, cpu: 100, is_healthy: Some(true), ..Mark::default() }
}

fn batch(marks: &[(Subject, Mark)], seen: &[(Subject, Timestamp, Seen)]) -> Batch {
    Batch {
        marks: marks.iter().copied().collect(),
        seen: seen.iter().map(|(subject, at, seen)| ((*subject, *at), *seen)).collect(),
        ..Batch::default()
    }
}

#[tokio::test]
async fn samples_count_once_in_minute_and_hour_and_outlive_a_restart() {
    let (dir, store) = store();
    let minute = Step::Minute.of(NOW);
    let seen = [(Subject::Service(SERVICE), minute, Seen { up: 10_000, down: 1_000 })];
    let marks = [(target(80), mark(NOW, 10)), (target(80), mark(NOW.plus(Duration::from_secs(1)), 20))];
    let first = store.write_qos(batch(&marks, &seen)).await.unwrap();
    assert_eq!(first, Written { taken: 2, repeated: 0, too_many: 0 });
    let again = store.write_qos(batch(&marks, &[])).await.unwrap();
    assert_eq!(again, Written { taken: 0, repeated: 2, too_many: 0 });
    drop(store);

    let store = SqliteStore::open(dir.path()).unwrap();
    // A late sample of the minute before comes into it and its hour, after the restart and a newer one.
    let before = Timestamp::from_millis(minute.as_millis() - 30_000);
    let late = store.write_qos(batch(&[(target(80), mark(before, 60)), marks[0]], &[])).await.unwrap();
    assert_eq!(late, Written { taken: 1, repeated: 1, too_many: 0 });
    let rows = store.qos_rows(Subject::Service(SERVICE), Step::Minute, ALL, 100).await.unwrap();
    let samples: Vec<_> = rows.values().map(|row| (row.samples, row.memory_sum, row.seen.up)).collect();
    assert_eq!(rows.len(), 3, "the service, and two minutes of its target: {rows:?}");
    assert_eq!(samples.iter().map(|(samples, ..)| samples).sum::<u64>(), 3);
    let hours = store.qos_rows(Subject::Service(SERVICE), Step::Hour, ALL, 100).await.unwrap();
    assert_eq!(hours.values().map(|row| row.memory_sum).sum::<u64>(), 90);
    let seen: Vec<_> = hours.values().map(|row| row.seen).filter(|seen| seen.both() > 0).collect();
    assert_eq!(seen, [Seen { up: 10_000, down: 1_000 }]);
    assert_eq!(store.qos_begins(SERVICE).await.unwrap(), Some(Step::Hour.of(minute)));
    let other = ServiceKey { blueprint: 7, service: 1 };
    assert_eq!(store.qos_begins(other).await.unwrap(), None);
    assert!(store.qos_rows(Subject::Node(agent()), Step::Hour, ALL, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_recorded_targets_of_a_machine_are_known_and_no_others() {
    let (_dir, store) = store();
    store.write_qos(batch(&[(target(80), mark(NOW, 10))], &[])).await.unwrap();
    let asked = BTreeSet::from([(SERVICE, 80), (SERVICE, 81), (ServiceKey { blueprint: 7, service: 1 }, 80)]);
    let known = store.recorded_targets(agent(), asked.clone()).await.unwrap();
    assert_eq!(known, BTreeSet::from([(SERVICE, 80)]));
    assert!(store.recorded_targets(AgentId::from_bytes([8; 16]), asked).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_minute_that_passes_twice_is_counted_once_in_its_hour_too() {
    let (_dir, store) = store();
    let minute = Step::Minute.of(NOW);
    let node = Subject::Node(agent());
    for _ in 0..3 {
        store.write_qos(batch(&[], &[(node, minute, Seen { up: 40_000, down: 0 })])).await.unwrap();
    }
    for step in [Step::Minute, Step::Hour] {
        let rows = store.qos_rows(node, step, ALL, 10).await.unwrap();
        assert_eq!(rows.values().map(|row| row.seen.up).collect::<Vec<_>>(), [60_000], "{step:?}");
    }
}

#[tokio::test]
async fn what_is_old_or_too_much_goes_and_the_newest_stay() {
    let (_dir, store) = store();
    let node = Subject::Node(agent());
    let at = |hours: u32| Timestamp::from_millis(NOW.as_millis() - u64::from(hours) * 3_600_000);
    let marks: Vec<_> = (0..100).map(|hours| (node, mark(at(hours), 1))).collect();
    store.write_qos(batch(&marks, &[])).await.unwrap();
    let keep = Keep { samples: HOUR, minutes: 10 * HOUR, hours: 50 * HOUR, rows: 1000 };
    let pruned = store.prune_qos(keep, NOW).await.unwrap();
    assert_eq!((pruned.minutes, pruned.hours, pruned.many), (11, 51, 0));
    let pruned = store.prune_qos(Keep { rows: 7, ..keep }, NOW).await.unwrap();
    assert_eq!((pruned.minutes, pruned.hours, pruned.many), (7, 7, 48));
    let rows = store.qos_rows(node, Step::Hour, ALL, 100).await.unwrap();
    assert_eq!(rows.keys().next_back().unwrap().0, Step::Hour.of(NOW));
    let service = Subject::Service(SERVICE);
    let seen: Vec<_> =
        (0..20).map(|hours| (service, Step::Minute.of(at(hours)), Seen { up: 1000, down: 0 })).collect();
    store.write_qos(batch(&[], &seen)).await.unwrap();
    store.prune_qos(Keep { rows: 3, ..keep }, NOW).await.unwrap();
    let hours = store.qos_hours(Subject::Service(SERVICE), ALL).await.unwrap();
    assert_eq!(hours.len(), 20, "the hours that reports are made of stay");
    let first = Some(Step::Hour.of(at(19)));
    assert_eq!(store.qos_begins(SERVICE).await.unwrap(), first);
    let gone = store.prune_qos(keep, NOW.plus(100 * HOUR)).await.unwrap();
    assert!(store.qos_hours(Subject::Service(SERVICE), ALL).await.unwrap().is_empty());
    assert_eq!(store.qos_begins(SERVICE).await.unwrap(), first, "what went is unknown, not uncounted");
    assert_eq!((gone.minutes, gone.hours), (0, 0));
}

#[tokio::test]
async fn a_machine_that_offers_ever_new_ports_takes_no_room_of_others() {
    let (_dir, store) = store();
    let marks: Vec<_> = (1..=2000).map(|port| (target(port), mark(NOW, 1))).collect();
    let written = store.write_qos(batch(&marks, &[])).await.unwrap();
    assert_eq!((written.taken, written.too_many), (512, 1488));
    let other = Subject::Node(AgentId::from_bytes([8; 16]));
    assert_eq!(store.write_qos(batch(&[(other, mark(NOW, 1))], &[])).await.unwrap().taken, 1);
}

#[tokio::test]
async fn objectives_are_audited_and_pages_of_services_are_bounded() {
    let (dir, store) = store();
    let objective: Objective = "99.95".parse().unwrap();
    assert!(store.set_objective(ObjectiveOf::Service(SERVICE), Some(objective), NOW).await.unwrap());
    let page = |text: &str| [("up".to_owned(), text.to_owned())].into();
    let at = |minute: u32| NOW.plus(Duration::from_secs(60) * minute);
    for minute in 0..10 {
        let points = vec![(SERVICE, (at(minute), page(&minute.to_string())))];
        store.write_pages(points, HOUR, (4, 100)).await.unwrap();
    }
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let set = store.objectives().await.unwrap();
    assert_eq!((set.len(), set[0].objective), (1, objective));
    let pages = store.pages(SERVICE, ALL, 100).await.unwrap();
    assert_eq!(pages.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [at(6), at(7), at(8), at(9)]);
    assert_eq!(store.pages(SERVICE, ALL, 1).await.unwrap(), [(at(9), page("9"))]);
    assert!(store.set_objective(ObjectiveOf::Service(SERVICE), None, NOW).await.unwrap());
    assert!(!store.set_objective(ObjectiveOf::Service(SERVICE), None, NOW).await.unwrap());
    let kinds: Vec<_> = store.audit_tail(10).await.unwrap().iter().map(|row| row.event.kind.name()).collect();
    assert_eq!(kinds.iter().filter(|kind| kind.starts_with("objective.")).count(), 2, "{kinds:?}");
}

#[tokio::test]
async fn what_was_offered_when_the_hub_ran_last_is_known_after_its_start() {
    let (_dir, store) = store();
    assert_eq!(store.qos_past().await.unwrap(), Past::default());
    let other = ServiceKey { blueprint: 1, service: 1 };
    let before = AgentId::from_bytes([1; 16]);
    let at = |minutes: u64| Step::Minute.of(Timestamp::from_millis(NOW.as_millis() - minutes * 60_000));
    let down = Seen { up: 0, down: 60_000 };
    let seen = [(Subject::Service(SERVICE), at(5), down), (Subject::Service(other), at(600), down)];
    let elsewhere = Subject::Target(TargetKey { service: SERVICE, agent: before, port: 80 });
    let gone = Subject::Target(TargetKey { service: other, agent: before, port: 80 });
    let marks = [(elsewhere, mark(at(300), 1)), (target(80), mark(at(120), 1)), (gone, mark(at(601), 1))];
    store.write_qos(batch(&marks, &seen)).await.unwrap();
    let past = store.qos_past().await.unwrap();
    assert_eq!(past, Past { newest: Some(at(5)), offered: [(SERVICE, agent())].into() });
}

#[tokio::test]
async fn many_rows_are_thinned_evenly_and_those_of_targets_are_joined_by_the_hour() {
    let (_dir, store) = store();
    let start = Step::Hour.of(NOW);
    let minute = |number: u32| start.plus(Duration::from_secs(60) * number);
    let mut marks = Vec::new();
    for number in 0..1000 {
        marks
            .extend([target(80), target(81), Subject::Node(agent())].map(|of| (of, mark(minute(number), 1))));
    }
    store
        .write_qos(batch(&marks, &[(Subject::Service(SERVICE), start, Seen { up: 9, down: 0 })]))
        .await
        .unwrap();
    let service = Subject::Service(SERVICE);
    let rows = store.qos_rows(service, Step::Minute, ALL, 400).await.unwrap();
    assert!((300..=400).contains(&rows.len()), "{}", rows.len());
    let moments: BTreeSet<_> = rows.keys().map(|(at, _)| *at).collect();
    assert_eq!((moments.len() * 3, moments.last()), (rows.len(), Some(&minute(999))), "the same of each");
    let all = store.qos_rows(service, Step::Minute, ALL, 10_000).await.unwrap();
    assert_eq!(all.len(), 3001);
    let hours = store.qos_hours(Subject::Service(SERVICE), ALL).await.unwrap();
    assert_eq!(hours.len(), 1 + 17);
    assert_eq!(hours.values().map(|row| row.samples).sum::<u64>(), 2000);
}

/// A thousand machines with a service each: one write is short, so that others need not wait for it.
#[tokio::test]
async fn a_batch_of_a_thousand_machines_is_written_in_less_than_two_seconds() {
    let (_dir, store) = store();
    let mut marks = Vec::new();
    for number in 0..1000u16 {
        let [high, low] = number.to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[high, low]);
        let agent = AgentId::from_bytes(bytes);
        let service = ServiceKey { blueprint: 1, service: number.into() };
        for second in [0, 10, 20, 30, 40, 50] {
            let mark = mark(Step::Minute.of(NOW).plus(Duration::from_secs(second)), 1);
            marks.push((Subject::Node(agent), mark));
            marks.push((Subject::Target(TargetKey { service, agent, port: 80 }), mark));
        }
    }
    let begin = std::time::Instant::now();
    assert_eq!(store.write_qos(batch(&marks, &[])).await.unwrap().taken, 12_000);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn what_came_late_fills_what_the_hub_did_not_see_and_no_more() {
    let (_dir, store) = store();
    let (service, node) = (Subject::Service(SERVICE), Subject::Node(agent()));
    let minute = Step::Minute.of(NOW);
    let at = |second: u64| minute.plus(Duration::from_secs(second));
    store.write_qos(batch(&[], &[(service, minute, Seen { up: 20_000, down: 0 })])).await.unwrap();
    let late = |second, is_healthy| Mark { is_late: true, is_healthy, ..mark(at(second), 1) };
    let marks = [
        (target(80), late(30, Some(true))),
        (target(80), late(40, Some(false))),
        (target(81), late(41, Some(false))),
        (node, late(30, None)),
    ];
    for _ in 0..2 {
        store.write_qos(batch(&marks, &[])).await.unwrap();
    }
    for step in [Step::Minute, Step::Hour] {
        let rows = store.qos_rows(service, step, ALL, 100).await.unwrap();
        let own = rows.iter().find(|((_, subject), _)| *subject == service).unwrap().1;
        assert_eq!((own.seen.up, own.late), (20_000, Seen { up: 20_000, down: 20_000 }), "{step:?}");
        let rows = store.qos_rows(node, step, ALL, 100).await.unwrap();
        assert_eq!(rows.values().map(|row| row.late.up).collect::<Vec<_>>(), [60_000], "{step:?}");
    }
    // What was taken in time says nothing of what the hub did not see, and what it sees comes first.
    let next = minute.plus(Duration::from_secs(60));
    let marks = [(target(80), mark(next, 1))];
    let seen = [(service, minute, Seen { up: 0, down: 30_000 })];
    store.write_qos(batch(&marks, &seen)).await.unwrap();
    let hours = store.qos_hours(service, ALL).await.unwrap();
    let own = hours.iter().find(|((_, subject), _)| *subject == service).unwrap().1;
    assert_eq!((own.seen.both(), own.late.both()), (50_000, 10_000), "{own:?}");
}

#[tokio::test]
async fn single_samples_are_kept_for_a_while_and_read_newest_first() {
    let (dir, store) = store();
    let at = |second: u64| NOW.plus(Duration::from_secs(second * 10));
    let marks: Vec<_> = (0..30).map(|second| (target(80), mark(at(second), second))).collect();
    store.write_qos(batch(&marks, &[])).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let samples = async |most| {
        let rows = store.qos_rows(Subject::Service(SERVICE), Step::Sample, ALL, most).await.unwrap();
        rows.values().map(|row| row.memory_sum).collect::<Vec<_>>()
    };
    assert_eq!(samples(100).await, (0..30).collect::<Vec<u64>>());
    assert_eq!(samples(4).await.last(), Some(&29), "the newest");
    let keep = Keep { samples: Duration::from_secs(100), minutes: HOUR, hours: HOUR, rows: 1000 };
    let pruned = store.prune_qos(keep, at(29)).await.unwrap();
    assert_eq!((pruned.samples, samples(100).await.len()), (11, 11));
    // Minutes do not need them.
    assert_eq!(
        store.qos_hours(Subject::Service(SERVICE), ALL).await.unwrap().values().next().unwrap().samples,
        30
    );
}

#[tokio::test]
async fn late_samples_that_are_too_old_for_single_ones_count_in_minutes_alone() {
    let (_dir, store) = store();
    let at = |minutes: u64| Timestamp::from_millis(NOW.as_millis() - minutes * 60_000);
    let late = |minutes| (target(80), Mark { is_late: true, ..mark(at(minutes), minutes) });
    let keep = Keep { samples: HOUR, minutes: 10 * HOUR, hours: 10 * HOUR, rows: 1000 };
    let marks = [late(300), late(61), late(59), late(0)];
    for expected in [(4, 0), (0, 4)] {
        let written = store.write_qos(batch(&marks, &[]).keeping_samples(keep.samples, NOW)).await.unwrap();
        assert_eq!((written.taken, written.repeated), expected);
        let count = async |step| store.qos_rows(target(80), step, ALL, 1000).await.unwrap().len();
        assert_eq!((count(Step::Sample).await, count(Step::Minute).await), (2, 4));
    }
    let pruned = store.prune_qos(keep, NOW).await.unwrap();
    assert_eq!((pruned.old, pruned.samples), (0, 2), "nothing was written for nothing");
    // A clock before 1970 and one hour keeps all.
    let early = batch(&[late(0)], &[]).keeping_samples(HOUR, Timestamp::from_millis(1));
    assert_eq!(early.samples_from, Timestamp::default());
}

#[tokio::test]
async fn machines_and_their_tunnels_have_objectives_of_their_own() {
    let (dir, store) = store();
    let (node, tunnel) = (ObjectiveOf::Node(agent()), ObjectiveOf::Tunnel(agent()));
    let objective = |text: &str| Some(text.parse::<Objective>().unwrap());
    assert!(store.set_objective(tunnel, objective("95"), NOW).await.unwrap());
    assert!(store.set_objective(node, objective("99"), NOW).await.unwrap());
    assert!(store.set_objective(node, objective("99.5"), NOW).await.unwrap());
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let set = store.objectives().await.unwrap();
    let told: Vec<_> = set.iter().map(|record| (record.of, record.objective.to_string())).collect();
    assert_eq!(told, [(node, "99.5".to_owned()), (tunnel, "95".to_owned())]);
    assert!(store.set_objective(node, None, NOW).await.unwrap());
    assert!(!store.set_objective(node, None, NOW).await.unwrap());
}
