//! The audit log is a chain, and the database holds on to it.

use blueprint_hub_registry_core::{AuditEvent, AuditKind, Store};
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
    ] {
        let (dir, store) = store();
        fill(&store).await;
        drop(store);
        let db = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
        db.execute_batch("DROP TRIGGER audit_update; DROP TRIGGER audit_delete").unwrap();
        db.execute_batch(tamper).unwrap();
        drop(db);
        let check = SqliteStore::open(dir.path()).unwrap().audit_verify().await.unwrap();
        assert_eq!(check.broken_at, Some(broken_at), "{tamper}");
    }
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
