//! The audit log is a chain, and the database holds on to it.

use blueprint_common_types::ServiceKey;
use blueprint_hub_registry_core::{AuditEvent, AuditFilter, AuditKind, Store};
use blueprint_hub_store::{DATABASE_FILE, SqliteStore};
use rusqlite::Connection;

use crate::support::{NOW, store};

async fn fill(store: &SqliteStore) {
    for n in 0..5 {
        store.audit(AuditEvent::new(AuditKind::HubStart, n, "x".repeat(1000)), NOW).await.unwrap();
    }
}

#[tokio::test]
async fn audit_rows_cannot_be_changed_deleted_or_replaced() {
    let (dir, store) = store();
    fill(&store).await;
    drop(store);
    let db = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    for sql in [
        "UPDATE audit SET detail = 'nothing happened' WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 5",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 3",
        "INSERT INTO audit SELECT 9, at, kind, subject, detail, prev_hash, hash FROM audit WHERE seq = 3",
    ] {
        let error = db.execute_batch(sql).unwrap_err().to_string();
        assert!(error.contains("audit rows"), "{sql}: {error}");
    }
    drop(db);
    let check = SqliteStore::open(dir.path()).unwrap().audit_verify().await.unwrap();
    assert_eq!((check.rows, check.broken_at), (5, None));
}

#[tokio::test]
async fn whoever_gets_around_the_triggers_breaks_the_chain() {
    for (tamper, broken_at) in [
        ("UPDATE audit SET detail = 'nothing happened' WHERE seq = 3", 3),
        ("UPDATE audit SET at = at + 1 WHERE seq = 1", 1),
        ("UPDATE audit SET kind = 'no.such' WHERE seq = 2", 2),
        ("DELETE FROM audit WHERE seq = 2", 3),
        ("DELETE FROM audit WHERE seq = 5", 5),
        ("DELETE FROM audit", 1),
        (
            "CREATE TABLE moved AS SELECT * FROM audit; DELETE FROM audit; \
             INSERT INTO audit SELECT 6 - seq, at, kind, subject, detail, prev_hash, hash FROM moved ORDER BY 1",
            1,
        ),
    ] {
        let (dir, store) = store();
        fill(&store).await;
        drop(store);
        let db = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
        db.execute_batch("DROP TRIGGER audit_update; DROP TRIGGER audit_delete").unwrap();
        db.execute_batch(tamper).unwrap();
        drop(db);
        let store = SqliteStore::open(dir.path()).unwrap();
        assert_eq!(store.audit_verify().await.unwrap().broken_at, Some(broken_at), "{tamper}");
        // What is appended later does not cover it up.
        store.audit(AuditEvent::new(AuditKind::HubStart, "hub", "again"), NOW).await.unwrap();
        assert_eq!(store.audit_verify().await.unwrap().broken_at, Some(broken_at), "{tamper}, later");
    }
}

#[tokio::test]
async fn rows_are_found_by_time_kind_service_and_hash() {
    let (_dir, store) = store();
    let rows = [
        (AuditKind::ApiKeyCreate, "ak_1", "service 7/42, owner ecdsa:02"),
        (AuditKind::ApiKeyRevoke, "ak_1", "service 7/42"),
        (AuditKind::ApiKeyCreate, "ak_2", "service 7/421, owner ecdsa:02"),
        (AuditKind::ServiceSet, "7/42", "1 owners"),
        (AuditKind::HubStop, "hub", "version"),
    ];
    for (second, (kind, subject, detail)) in (0..).zip(rows) {
        let at = NOW.plus(std::time::Duration::from_secs(second));
        store.audit(AuditEvent::new(kind, subject, detail), at).await.unwrap();
    }
    let found = async |filter: AuditFilter| {
        let rows = store.audit_find(AuditFilter { limit: 10, ..filter }).await.unwrap();
        rows.iter().map(|row| row.seq).collect::<Vec<_>>()
    };
    let kind = |kind: &str| AuditFilter { kind: Some(kind.to_owned()), ..AuditFilter::default() };
    assert_eq!(found(kind("api_key")).await, [1, 2, 3]);
    assert_eq!(found(kind("api_key.create")).await, [1, 3]);
    assert_eq!(found(kind("api")).await, [0; 0]);
    let service = Some(ServiceKey { blueprint: 7, service: 42 });
    assert_eq!(found(AuditFilter { service, ..AuditFilter::default() }).await, [1, 2, 4]);
    let since = Some(NOW.plus(std::time::Duration::from_secs(3)));
    assert_eq!(found(AuditFilter { since, ..AuditFilter::default() }).await, [4, 5]);
    assert_eq!(found(AuditFilter { since, service, ..kind("service.set") }).await, [4]);
    let hash = Some(store.audit_verify().await.unwrap().head);
    assert_eq!(found(AuditFilter { hash, ..AuditFilter::default() }).await, [5]);
}

#[tokio::test]
async fn the_tail_is_in_order_and_texts_are_bounded() {
    let (_dir, store) = store();
    assert_eq!(store.audit_tail(10).await.unwrap(), []);
    fill(&store).await;
    let tail = store.audit_tail(2).await.unwrap();
    assert_eq!(tail.iter().map(|row| row.seq).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(tail[1].prev_hash, tail[0].hash);
    assert_eq!(tail[1].event.detail.len(), 500);
    assert_eq!(store.audit_verify().await.unwrap().head, tail[1].hash);
}
