//! Settings of services and API keys.

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::{
    ApiKeyError, ApiKeyRecord, ApiKeyRotateError, ApiKeyRotation, AssertionRecord, AuditKind, ServiceChange,
    ServiceChangeError, Store,
};
use blueprint_hub_store::SqliteStore;

use crate::support::store;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: u64::MAX };
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DAY: u64 = 24 * 3600 * 1000;

fn change(document: &str, replaces: Option<u64>, revoke: &[&str]) -> ServiceChange {
    ServiceChange {
        service: SERVICE,
        document: document.to_owned(),
        replaces,
        revoke_owners: revoke.iter().map(|owner| (*owner).to_owned()).collect(),
        summary: "1 owner".to_owned(),
        now: NOW,
    }
}

fn key(id: &str, owner: &str, created_at: Timestamp) -> ApiKeyRecord {
    ApiKeyRecord {
        id: id.to_owned(),
        hash: [7; 32],
        service: SERVICE,
        owner: owner.to_owned(),
        headers: "{}".to_owned(),
        created_at,
        expires_at: Timestamp::from_millis(created_at.as_millis() + DAY),
        revoked_at: None,
    }
}

async fn revoked(store: &SqliteStore) -> Vec<bool> {
    store.list_api_keys().await.unwrap().iter().map(|key| key.revoked_at.is_some()).collect()
}

#[tokio::test]
async fn settings_follow_on_each_other_and_survive() {
    let (dir, store) = store();
    assert_eq!(store.list_services().await.unwrap(), []);
    assert_eq!(store.change_service(change("{\"a\":1}", Some(0), &[])).await.unwrap().version, 1);
    let late = store.change_service(change("{}", Some(0), &[])).await;
    assert!(matches!(late, Err(ServiceChangeError::Conflict { current: 1 })), "{late:?}");
    assert_eq!(store.change_service(change("{\"a\":2}", None, &[])).await.unwrap().version, 2);
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let [record] = store.list_services().await.unwrap().try_into().unwrap();
    assert_eq!((record.service, record.version, record.document.as_str()), (SERVICE, 2, "{\"a\":2}"));
}

#[tokio::test]
async fn keys_end_with_their_owner_and_each_by_itself() {
    let (_dir, store) = store();
    for (id, owner) in [("ak_1", "one"), ("ak_2", "two"), ("ak_3", "one")] {
        store.create_api_key(key(id, owner, NOW), 8).await.unwrap();
    }
    assert_eq!(store.revoke_api_key("ak_3".to_owned(), NOW).await.unwrap(), Some(SERVICE));
    assert_eq!(store.revoke_api_key("ak_3".to_owned(), NOW).await.unwrap(), None, "only once");
    assert_eq!(store.revoke_api_key("ak_9".to_owned(), NOW).await.unwrap(), None);
    assert_eq!(revoked(&store).await, [false, false, true]);
    store.change_service(change("{}", None, &["one"])).await.unwrap();
    assert_eq!(revoked(&store).await, [true, false, true]);
    let kinds: Vec<_> = store.audit_tail(10).await.unwrap().iter().map(|row| row.event.kind).collect();
    use AuditKind::{ApiKeyCreate, ApiKeyRevoke, ServiceSet};
    assert_eq!(kinds, [ApiKeyCreate, ApiKeyCreate, ApiKeyCreate, ApiKeyRevoke, ServiceSet, ApiKeyRevoke]);
    assert_eq!(store.audit_verify().await.unwrap().broken_at, None);
}

#[tokio::test]
async fn an_owner_has_so_many_live_keys_and_old_ones_are_forgotten() {
    let (_dir, store) = store();
    for id in ["ak_1", "ak_2"] {
        store.create_api_key(key(id, "one", NOW), 2).await.unwrap();
    }
    let full = store.create_api_key(key("ak_3", "one", NOW), 2).await;
    assert!(matches!(full, Err(ApiKeyError::TooMany { live: 2 })), "{full:?}");
    store.create_api_key(key("ak_4", "two", NOW), 2).await.unwrap();
    let after = Timestamp::from_millis(NOW.as_millis() + 2 * DAY);
    store.create_api_key(key("ak_5", "one", after), 2).await.unwrap();
    let much_later = Timestamp::from_millis(NOW.as_millis() + 40 * DAY);
    store.create_api_key(key("ak_6", "one", much_later), 2).await.unwrap();
    assert_eq!(store.list_api_keys().await.unwrap().len(), 1, "what ended 30 days ago is gone");
}

#[tokio::test]
async fn a_key_takes_the_place_of_another_whole_or_not_at_all() {
    let (_dir, store) = store();
    let hour = Timestamp::from_millis(NOW.as_millis() + 3_600_000);
    for (id, owner) in [("ak_1", "one"), ("ak_2", "two")] {
        store.create_api_key(key(id, owner, NOW), 8).await.unwrap();
    }
    let rotate = |replaces: &str, ends_at, id, owner, most| {
        let rotation = ApiKeyRotation { replaces: replaces.to_owned(), ends_at, record: key(id, owner, NOW) };
        store.rotate_api_key(rotation, most)
    };
    for (replaces, owner) in [("ak_1", "two"), ("ak_9", "one")] {
        let refused = rotate(replaces, NOW, "ak_x", owner, 8).await;
        assert!(matches!(refused, Err(ApiKeyRotateError::NotLive)), "{replaces}: {refused:?}");
    }
    rotate("ak_1", hour, "ak_3", "one", 1).await.unwrap();
    let full = rotate("ak_3", NOW, "ak_4", "one", 1).await;
    assert!(matches!(full, Err(ApiKeyRotateError::TooMany { live: 1 })), "{full:?}");
    rotate("ak_2", NOW, "ak_5", "two", 8).await.unwrap();
    assert!(matches!(rotate("ak_2", hour, "ak_6", "two", 8).await, Err(ApiKeyRotateError::NotLive)));
    let keys = store.list_api_keys().await.unwrap();
    let seen: Vec<_> =
        keys.iter().map(|key| (key.id.as_str(), key.expires_at == hour, key.revoked_at.is_some())).collect();
    assert_eq!(
        seen,
        [("ak_1", true, false), ("ak_2", false, true), ("ak_3", false, false), ("ak_5", false, false)]
    );
    let kinds: Vec<_> = store.audit_tail(10).await.unwrap().iter().map(|row| row.event.kind).collect();
    use AuditKind::{ApiKeyCreate, ApiKeyRotate};
    assert_eq!(kinds, [ApiKeyCreate, ApiKeyCreate, ApiKeyRotate, ApiKeyRotate]);
}

#[tokio::test]
async fn an_assertion_is_used_once_until_it_has_expired_also_over_a_restart() {
    let (dir, store) = store();
    let at = |seconds: u64| Timestamp::from_millis(NOW.as_millis() + seconds * 1000);
    let used = AssertionRecord {
        service: ServiceKey { blueprint: 7, service: u64::MAX },
        hash: [7; 32],
        until: at(60),
    };
    assert!(store.use_assertion(used, NOW).await.unwrap());
    assert!(!store.use_assertion(used, at(59)).await.unwrap());
    let of_another =
        AssertionRecord { service: ServiceKey { blueprint: 7, service: 1 }, until: at(90), ..used };
    assert!(store.use_assertion(of_another, NOW).await.unwrap());
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(!store.use_assertion(used, at(59)).await.unwrap());
    assert_eq!(store.list_assertions(at(59)).await.unwrap().len(), 2);
    assert_eq!(store.list_assertions(at(60)).await.unwrap(), [of_another], "expired ones are forgotten");
    // Those that a use finds expired go with it.
    let third = AssertionRecord { hash: [8; 32], until: at(120), ..used };
    assert!(store.use_assertion(third, at(90)).await.unwrap());
    assert_eq!(store.list_assertions(NOW).await.unwrap(), [third]);
}
