//! Workloads: what nodes run.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{
    EventKind, HUB_ROWS, KEEP_VERSIONS, NODE_ROWS, NewUpdate, Phase, Placed, Strategy, Update, UpdatePlan,
    VersionOutcome, WorkloadChange, WorkloadChangeError, WorkloadEvent, WorkloadRecord, WorkloadStore,
};
use blueprint_hub_registry_core::{AuditKind, Store};
use blueprint_hub_store::SqliteStore;

use crate::support::{NOW, store};

const SERVICE: ServiceKey = ServiceKey { blueprint: u64::MAX, service: 42 };

fn node(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn change(document: &str, nodes: &[u8], replaces: Option<u64>) -> WorkloadChange {
    WorkloadChange {
        service: SERVICE,
        document: document.to_owned(),
        nodes: nodes.iter().map(|number| node(*number)).collect(),
        keystore: Some("v4.local.sealed".to_owned()),
        replaces,
        by: Some("operator (socket)".to_owned()),
        summary: "native source".to_owned(),
        now: NOW,
    }
}

fn placed(record: &WorkloadRecord, on: u8) -> Placed {
    let WorkloadRecord { service, generation, .. } = *record;
    let (from, kind) = (record.node, EventKind::Move);
    Placed { service, generation, node: node(on), from, kind, reason: "a test".to_owned(), now: NOW }
}

#[tokio::test]
async fn generations_only_grow_also_over_removals_and_restarts() {
    let (dir, store) = store();
    let first = store.set_workload(change("{}", &[], Some(0))).await.unwrap();
    assert_eq!((first.node, first.nodes.len()), (None, 0));
    let conflict = store.set_workload(change("{}", &[], Some(0))).await;
    assert!(
        matches!(conflict, Err(WorkloadChangeError::Conflict { current }) if current == first.generation)
    );
    let on_one = store.place_workload(placed(&first, 1)).await.unwrap().unwrap();
    assert!(on_one.generation > first.generation && on_one.node == Some(node(1)));
    // A decision about what is not there any more is void.
    assert_eq!(store.place_workload(placed(&first, 2)).await.unwrap(), None);
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.list_workloads().await.unwrap(), std::slice::from_ref(&on_one));

    let kept = store.set_workload(change("{\"a\":1}", &[1, 2], None)).await.unwrap();
    assert_eq!((kept.node, kept.nodes), (Some(node(1)), BTreeSet::from([node(1), node(2)])));
    let gone = store.set_workload(change("{}", &[2], None)).await.unwrap();
    assert_eq!(gone.node, None, "it may not stay");
    assert!(store.remove_workload(SERVICE, "taken back", NOW).await.unwrap());
    assert!(!store.remove_workload(SERVICE, "taken back", NOW).await.unwrap());
    let again = store.set_workload(change("{}", &[], Some(0))).await.unwrap();
    assert!(again.generation >= first.generation);
    let audit = store.audit_tail(20).await.unwrap();
    let count = |kind| audit.iter().filter(|row| row.event.kind == kind).count();
    assert_eq!(
        [AuditKind::WorkloadSet, AuditKind::WorkloadMove, AuditKind::WorkloadRemove].map(count),
        [4, 1, 1]
    );
}

fn event(kind: EventKind, secs: u64) -> WorkloadEvent {
    WorkloadEvent {
        service: SERVICE,
        generation: 3,
        at: later(secs),
        node: Some(node(1)),
        kind,
        reason: format!("after {secs} s"),
    }
}

fn later(secs: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(secs))
}

#[tokio::test]
async fn a_journal_keeps_each_step_once_and_the_newest_of_them_over_restarts() {
    use EventKind::{Degraded, FailOver, Move, Redeploy, Restart, Settled};
    let (dir, store) = store();
    let first = store.set_workload(change("{}", &[], Some(0))).await.unwrap();
    store.place_workload(placed(&first, 1)).await.unwrap().unwrap();
    let steps: Vec<_> = (1..=3).map(|secs| event(Restart, secs)).collect();
    store.journal(steps.clone(), NOW).await.unwrap();
    // The node says again what it said, and one more.
    let more = event(Redeploy, 4);
    store.journal([steps, vec![more.clone()]].concat(), NOW).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let kinds: Vec<_> = store.events(SERVICE).await.unwrap().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Move, Restart, Restart, Restart, Redeploy]);
    let many = (5..500).map(|secs| event(Restart, secs)).collect();
    store.journal(many, NOW).await.unwrap();
    let kept = store.events(SERVICE).await.unwrap();
    assert_eq!((kept.len(), kept.last().unwrap().at), (NODE_ROWS + 1, later(499)));
    assert_eq!(kept[0].kind, Move, "a node cannot push out what the hub decided");
    for secs in 0..40 {
        store.journal(vec![event(FailOver, secs)], later(secs)).await.unwrap();
    }
    assert_eq!(store.fail_overs(later(0)).await.unwrap().len(), 40, "each counts for an hour");
    for secs in 4000..4040 {
        store.journal(vec![event(Move, secs)], later(secs)).await.unwrap();
    }
    assert_eq!(store.events(SERVICE).await.unwrap().len(), NODE_ROWS + HUB_ROWS);
    // Whatever its node says in between, it is once in an hour.
    for secs in (5000..12_000).step_by(100) {
        store.journal(vec![event(Degraded, secs), event(Settled, secs)], later(secs)).await.unwrap();
    }
    let degraded = |events: Vec<WorkloadEvent>| {
        events.into_iter().filter(|event| event.kind == Degraded).map(|event| event.at).collect::<Vec<_>>()
    };
    assert_eq!(degraded(store.events(SERVICE).await.unwrap()), [later(5000), later(8600)]);
    assert!(store.remove_workload(SERVICE, "taken back", NOW).await.unwrap());
    assert!(store.events(SERVICE).await.unwrap().is_empty());
}

fn plan(strategy: Strategy) -> UpdatePlan {
    UpdatePlan { strategy, ..UpdatePlan::default() }
}

fn next(record: &WorkloadRecord, document: &str, strategy: Strategy) -> NewUpdate {
    NewUpdate {
        service: SERVICE,
        replaces: record.generation,
        document: document.to_owned(),
        nodes: BTreeSet::new(),
        keystore: Some("v4.local.other".to_owned()),
        repeats: None,
        plan: plan(strategy),
        place: (strategy != Strategy::Recreate).then(|| (node(1), 1)),
        replicas: vec![node(1), node(2)],
        needs_target: true,
        by: "operator (socket)".to_owned(),
        now: NOW,
    }
}

#[tokio::test]
async fn an_update_is_there_after_a_restart_and_one_version_serves_whatever_it_does() {
    let (dir, store) = store();
    let first = store.set_workload(change("{\"a\":1}", &[], None)).await.unwrap();
    let first = store.place_workload(placed(&first, 1)).await.unwrap().unwrap();
    let begun = store.begin_update(next(&first, "{\"a\":2}", Strategy::BlueGreen)).await.unwrap().unwrap();
    assert_eq!(begun.record, first, "what serves stays");
    let beside = begun.next.clone().unwrap();
    assert!(beside.generation > first.generation && beside.slot == 1 && beside.version == 2);
    assert_eq!(beside.document, "{\"a\":2}");
    // One at a time, and nobody changes it meanwhile.
    let second = store.begin_update(next(&first, "{\"a\":3}", Strategy::BlueGreen)).await.unwrap();
    assert_eq!(second, None);
    let set = store.set_workload(change("{\"a\":3}", &[], None)).await;
    assert!(matches!(set, Err(WorkloadChangeError::Updating { to: 2 })), "{set:?}");
    // Where the one that serves is placed anew, the two stay apart.
    let moved = store.place_workload(placed(&first, 2)).await.unwrap().unwrap();
    assert!(moved.generation > beside.generation);
    store.save_update(Update { phase: Phase::Moved, ..begun.update.clone() }).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let found = store.list_updates().await.unwrap();
    assert_eq!((found[0].update.phase, found[0].next.as_ref()), (Phase::Moved, Some(&beside)));
    let serving = store.finish_update(SERVICE, NOW).await.unwrap().unwrap();
    assert_eq!(serving, beside);
    assert_eq!(store.list_workloads().await.unwrap(), std::slice::from_ref(&beside));
    assert_eq!(store.finish_update(SERVICE, NOW).await.unwrap(), None, "once");

    // By recreate the next version serves at once, and the old one again once it is taken back.
    let begun = store.begin_update(next(&beside, "{\"a\":3}", Strategy::Recreate)).await.unwrap().unwrap();
    assert_eq!((begun.record.version, begun.record.document.as_str()), (3, "{\"a\":3}"));
    let back = store.take_back_update(SERVICE, "it is sick".to_owned(), NOW).await.unwrap().unwrap();
    assert_eq!((back.version, back.document.as_str()), (2, "{\"a\":2}"));
    assert!(back.generation > begun.record.generation && back.slot == beside.slot);
    let versions = store.list_versions(SERVICE).await.unwrap();
    let told: Vec<_> = versions.iter().map(|it| (it.number, it.outcome, it.reason.as_str())).collect();
    let expected = [
        (3, VersionOutcome::Failed, "it is sick"),
        (2, VersionOutcome::Current, ""),
        (1, VersionOutcome::Replaced, ""),
    ];
    assert_eq!(told, expected);
    assert!(store.remove_workload(SERVICE, "taken back", NOW).await.unwrap());
    assert!(store.list_versions(SERVICE).await.unwrap().is_empty(), "secrets go with it");
}

#[tokio::test]
async fn so_many_versions_are_kept_as_are_asked_for_and_what_is_in_use_is_among_them() {
    let (_dir, store) = store();
    let mut record = store.set_workload(change("{}", &[], None)).await.unwrap();
    for number in 2..=30u32 {
        let begun = store.begin_update(next(&record, &format!("{{\"a\":{number}}}"), Strategy::Rolling));
        let begun = begun.await.unwrap().unwrap();
        assert_eq!(begun.update.to, number);
        let gone = store.trim_versions(KEEP_VERSIONS, NOW).await.unwrap();
        let expected = (number > 10).then(|| (SERVICE, vec![number - 9])).into_iter();
        assert_eq!(gone, expected.collect::<Vec<_>>());
        store.take_back_update(SERVICE, "it is a test".to_owned(), NOW).await.unwrap();
        let kept = store.list_versions(SERVICE).await.unwrap();
        assert!(kept.len() <= KEEP_VERSIONS && kept.iter().any(|it| it.number == 1), "{number}");
        record = begun.record;
    }
    assert_eq!(store.list_versions(SERVICE).await.unwrap().len(), KEEP_VERSIONS);
    assert_eq!(store.trim_versions(KEEP_VERSIONS, NOW).await.unwrap(), []);
    // Fewer are asked for: the oldest go, but for what serves, and that is said.
    let gone = store.trim_versions(3, NOW).await.unwrap();
    assert_eq!(gone, [(SERVICE, (22..=28).collect::<Vec<u32>>())]);
    let kept = store.list_versions(SERVICE).await.unwrap();
    assert_eq!(kept.iter().map(|it| it.number).collect::<Vec<_>>(), [30, 29, 1]);
    // The same again is no new version, and a launcher's is not kept.
    let same = store.set_workload(change("{}", &[], None)).await.unwrap();
    assert_eq!(same.version, 1);
    let leased = WorkloadChange { by: None, ..change("{\"b\":1}", &[], None) };
    assert_eq!(store.set_workload(leased).await.unwrap().version, 31);
    assert!(store.list_versions(SERVICE).await.unwrap().iter().all(|it| it.number != 31));
}

#[tokio::test]
async fn what_a_rollback_goes_to_stays_however_few_versions_are_kept() {
    let (_dir, store) = store();
    let mut record = store.set_workload(change("{}", &[], None)).await.unwrap();
    let numbers = async || {
        let kept = store.list_versions(SERVICE).await.unwrap();
        kept.iter().map(|it| it.number).collect::<Vec<_>>()
    };
    for number in 2..=4u32 {
        let begun = store.begin_update(next(&record, &format!("{{\"a\":{number}}}"), Strategy::Rolling));
        begun.await.unwrap().unwrap();
        record = store.finish_update(SERVICE, NOW).await.unwrap().unwrap();
    }
    assert_eq!(numbers().await, [4, 3, 2, 1]);
    // Back to the second: it stays beside the two of the update, and whatever comes later may go.
    let back = NewUpdate { repeats: Some(2), ..next(&record, "{\"a\":2}", Strategy::Rolling) };
    store.begin_update(back).await.unwrap().unwrap();
    assert_eq!(store.trim_versions(2, NOW).await.unwrap(), [(SERVICE, vec![1])]);
    assert_eq!(store.trim_versions(2, NOW).await.unwrap(), [], "the third served last before");
    assert_eq!(numbers().await, [5, 4, 3, 2]);
    record = store.finish_update(SERVICE, NOW).await.unwrap().unwrap();
    assert_eq!(store.trim_versions(2, NOW).await.unwrap(), [(SERVICE, vec![2, 3])]);
    // Versions that failed do not push out the one that served before.
    for number in 6..=8u32 {
        let begun = store.begin_update(next(&record, &format!("{{\"b\":{number}}}"), Strategy::Rolling));
        begun.await.unwrap().unwrap();
        store.trim_versions(2, NOW).await.unwrap();
        assert_eq!(numbers().await, [number, 5, 4]);
        store.take_back_update(SERVICE, "it is a test".to_owned(), NOW).await.unwrap();
    }
    assert_eq!(store.trim_versions(2, NOW).await.unwrap(), [(SERVICE, vec![8])]);
    assert_eq!(numbers().await, [5, 4]);
}
