//! Credentials of providers.

use blueprint_hub_provision_core::{CredentialRecord, CredentialStore};
use blueprint_hub_registry_core::{AuditKind, Store};
use blueprint_hub_store::SqliteStore;

use crate::schema::take_back_to;
use crate::support::{NOW, store};

fn record(provider: &str, sealed: &str) -> CredentialRecord {
    CredentialRecord {
        provider: provider.to_owned(),
        sealed: sealed.to_owned(),
        shown: "...6789".to_owned(),
        changed_at: NOW,
        changed_by: "operator (socket)".to_owned(),
    }
}

#[tokio::test]
async fn credentials_replace_each_other_survive_and_are_forgotten_once() {
    let (dir, store) = store();
    assert_eq!(store.credentials().await.unwrap(), []);
    for (provider, sealed) in [("digitalocean", "v4.local.a"), ("aws", "v4.local.b"), ("aws", "v4.local.c")] {
        store.set_credentials(record(provider, sealed), "a summary".to_owned()).await.unwrap();
    }
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let both = [record("aws", "v4.local.c"), record("digitalocean", "v4.local.a")];
    assert_eq!(store.credentials().await.unwrap(), both);
    let forget = || store.forget_credentials("aws".to_owned(), "operator (port)".to_owned(), NOW);
    assert!(forget().await.unwrap());
    assert!(!forget().await.unwrap());
    assert_eq!(store.credentials().await.unwrap(), [record("digitalocean", "v4.local.a")]);
    let rows = store.audit_tail(9).await.unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| row.event.kind).collect();
    let set = AuditKind::ProviderConfigure;
    assert_eq!(kinds, [set, set, set, AuditKind::ProviderForget]);
    let last = &rows.last().unwrap().event;
    assert_eq!((last.subject.as_str(), last.detail.as_str()), ("aws", "by operator (port)"));
}

#[tokio::test]
async fn a_database_of_before_has_none() {
    let (dir, store) = store();
    drop(store);
    take_back_to(dir.path(), 11);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.credentials().await.unwrap(), []);
}
