//! Workloads: what nodes run.

use std::collections::BTreeSet;

use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_registry_core::workload::{
    Placed, WorkloadChange, WorkloadChangeError, WorkloadRecord, WorkloadStore,
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
    Placed { service, generation, node: node(on), reason: "a test".to_owned(), now: NOW }
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
