//! Workloads: what nodes run.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{
    EventKind, HUB_ROWS, NODE_ROWS, Placed, WorkloadChange, WorkloadChangeError, WorkloadEvent,
    WorkloadRecord, WorkloadStore,
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
        store.journal(vec![event(FailOver, secs)], NOW).await.unwrap();
    }
    assert_eq!(store.events(SERVICE).await.unwrap().len(), NODE_ROWS + HUB_ROWS);
    assert_eq!(store.fail_overs(later(30)).await.unwrap().len(), 10);
    for again in [false, true] {
        for _ in 0..3 {
            store.journal(vec![event(Degraded, 600)], NOW).await.unwrap();
        }
        let rows = store.events(SERVICE).await.unwrap();
        let count = rows.iter().filter(|event| event.kind == Degraded).count();
        assert_eq!(count, if again { 2 } else { 1 });
        store.journal(vec![event(Settled, if again { 800 } else { 700 })], NOW).await.unwrap();
    }
    assert!(store.remove_workload(SERVICE, "taken back", NOW).await.unwrap());
    assert!(store.events(SERVICE).await.unwrap().is_empty());
}
