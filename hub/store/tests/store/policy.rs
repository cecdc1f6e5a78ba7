//! The policy: versions, who came first, and what is left behind.

use blueprint_hub_registry_core::{AuditKind, PolicyChange, PolicyChangeError, Store};
use blueprint_hub_store::SqliteStore;

use crate::schema::take_back_to;
use crate::support::{NOW, store};

fn change(document: &str, replaces: Option<u64>) -> PolicyChange {
    PolicyChange {
        document: document.to_owned(),
        replaces,
        changed_by: "operator (socket)".to_owned(),
        summary: "1 grant".to_owned(),
        now: NOW,
    }
}

#[tokio::test]
async fn a_policy_outlives_the_process_and_its_version_grows() {
    let (dir, store) = store();
    assert_eq!(store.policy().await.unwrap(), None);
    assert_eq!(store.change_policy(change("one", Some(0))).await.unwrap().version, 1);
    let second = store.change_policy(change("two", None)).await.unwrap();
    assert_eq!((second.version, second.document.as_str(), second.changed_at), (2, "two", NOW));
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.policy().await.unwrap(), Some(second));
    let rows = store.audit_tail(10).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.event.kind, row.event.subject.as_str())).collect();
    assert_eq!(told, [(AuditKind::PolicySet, "version 1"), (AuditKind::PolicySet, "version 2")]);
    assert_eq!(rows[0].event.detail, "1 grant; by operator (socket)");
}

#[tokio::test]
async fn of_two_changes_of_one_version_the_second_is_refused_and_leaves_nothing() {
    let (_dir, store) = store();
    store.change_policy(change("one", None)).await.unwrap();
    let (first, second) = tokio::join!(
        store.change_policy(change("mine", Some(1))),
        store.change_policy(change("theirs", Some(1)))
    );
    assert_eq!(first.unwrap().version, 2);
    assert!(matches!(second, Err(PolicyChangeError::Conflict { current: 2 })), "{second:?}");
    assert_eq!(store.policy().await.unwrap().unwrap().document, "mine");
    assert_eq!(store.audit_tail(10).await.unwrap().len(), 2);
    let never = store.change_policy(change("x", Some(0))).await;
    assert!(matches!(never, Err(PolicyChangeError::Conflict { current: 2 })), "{never:?}");
}

#[tokio::test]
async fn a_database_from_before_policies_is_brought_up_to_date() {
    let (dir, store) = store();
    drop(store);
    take_back_to(dir.path(), 2);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.policy().await.unwrap(), None);
    assert_eq!(store.change_policy(change("one", Some(0))).await.unwrap().version, 1);
}
