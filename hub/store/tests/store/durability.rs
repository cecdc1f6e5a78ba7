//! What was acknowledged is there after a kill at any moment.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use blueprint_hub_registry_core::{AuditEvent, AuditKind, Store, StoreError};
use blueprint_hub_store::{QUEUE_LENGTH, SqliteStore};
use futures_util::FutureExt;
use rusqlite::Connection;

use crate::support::{NOW, commit, store, token};

/// Names the folder for [`the_process_that_is_killed`].
const FOLDER: &str = "STORE_TEST_KILLED_FOLDER";
const WRITERS: u16 = 8;

/// The body of the child of [`every_acknowledged_join_survives_a_kill`]; elsewhere it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let store = Arc::new(SqliteStore::open(Path::new(&dir)).unwrap());
    let token = token(&store, u32::MAX).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, token) = (Arc::clone(&store), token.clone());
        writers.spawn(async move {
            for n in (writer..10_000).step_by(usize::from(WRITERS)) {
                let agent = store.join(commit(n, &token)).await.unwrap();
                let line = format!("joined {}\n", agent.id);
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    writers.join_all().await;
}

#[tokio::test]
async fn every_acknowledged_join_survives_a_kill() {
    for acknowledged in [1, 40, 200] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::the_process_that_is_killed", "--nocapture", "--test-threads=1"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let joined = |line: String| line.split_once("joined ").map(|(_, id)| id.to_owned());
        let mut seen: Vec<_> = lines.by_ref().filter_map(joined).take(acknowledged).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts as well; its last line may be cut off.
        seen.extend(lines.filter_map(joined).filter(|id| id.len() == 36));
        assert!(seen.len() >= acknowledged);

        let store = SqliteStore::open(dir.path()).unwrap();
        let loaded = store.load().await.unwrap();
        for id in &seen {
            assert!(loaded.agents.iter().any(|agent| agent.id.to_string() == *id), "{id} is lost");
        }
        let check = store.audit_verify().await.unwrap();
        assert_eq!(check.broken_at, None);
        let agents = u32::try_from(loaded.agents.len()).unwrap();
        assert_eq!(check.rows, u64::from(agents) + 1, "an audit row for each join and one for the token");
        assert_eq!(store.list_join_tokens().await.unwrap()[0].uses_left, u32::MAX - agents);
    }
}

#[tokio::test]
async fn dropping_the_store_finishes_what_is_queued() {
    let (dir, store) = store();
    for n in 0..200 {
        let event = AuditEvent::new(AuditKind::HubStart, n, "");
        // Polled once and dropped: queued, and nobody waits for it.
        let _ = store.audit(event, NOW).now_or_never();
    }
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.audit_verify().await.unwrap().rows, 200);
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    let (dir, store) = store();
    // A writer of another process holds the thread up, within its patience of five seconds.
    let other = Connection::open(dir.path().join(blueprint_hub_store::DATABASE_FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut write = store.audit(AuditEvent::new(AuditKind::HubStart, "", ""), NOW);
        match (&mut write).now_or_never() {
            None => waiting.push(write),
            Some(result) => break result,
        }
    };
    assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
    // One piece of work may have left the queue for the thread.
    assert!((QUEUE_LENGTH..=QUEUE_LENGTH + 1).contains(&waiting.len()), "{}", waiting.len());
    other.execute_batch("ROLLBACK").unwrap();
    let count = u64::try_from(waiting.len()).unwrap();
    for write in waiting {
        write.await.unwrap();
    }
    assert_eq!(store.audit_verify().await.unwrap().rows, count);
}
