//! What stands in the way of opening, and what is on the disk afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use blueprint_common_types::{AccessToken, JoinToken};
use blueprint_hub_registry_core::{AccessScope, AccessTokenRecord, Store};
use blueprint_hub_store::{DATABASE_FILE, LOCK_FILE, OpenError, SqliteStore};
use rusqlite::Connection;

use crate::schema::{NEWEST, take_back_to};
use crate::support::{NOW, commit, record, store, token};

#[tokio::test]
async fn a_second_hub_is_refused_and_told_who_is_first() {
    let (dir, store) = store();
    let error = SqliteStore::open(dir.path()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, OpenError::InUse { pid: Some(found), .. } if found == pid), "{error:?}");
    assert!(error.to_string().ends_with(&format!("is in use by another hub (pid {pid})")), "{error}");
    assert_eq!(store.epoch_next().await.unwrap(), 1, "the first goes on");
    drop(store);
    SqliteStore::open(dir.path()).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let (dir, store) = store();
    drop(store);
    let db = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    db.execute_batch("INSERT INTO schema_version (version) VALUES (99)").unwrap();
    drop(db);
    let error = SqliteStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, known: NEWEST }), "{error:?}");
}

#[tokio::test]
async fn tokens_of_the_first_schema_have_no_address() {
    let (dir, store) = store();
    let token = token(&store, 1).await;
    drop(store);
    take_back_to(dir.path(), 1);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.list_join_tokens().await.unwrap(), [record(&token, 1)]);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(DATABASE_FILE), b"#!/bin/sh\n".repeat(100)).unwrap();
    assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::Database(_))));
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let below_a_file = SqliteStore::open(&dir.path().join("file/state"));
    assert!(matches!(below_a_file, Err(OpenError::Io { .. })));
}

#[tokio::test]
async fn files_are_for_the_owner_alone_and_hold_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = SqliteStore::open(&state).unwrap();
    let (token, access) = (JoinToken::random().unwrap(), AccessToken::random().unwrap());
    store.create_join_token(record(&token, 2)).await.unwrap();
    let saved = AccessTokenRecord {
        id: access.id(),
        hash: access.hash(),
        label: "canary".to_owned(),
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
        services: AccessScope::All,
    };
    store.create_access_token(saved).await.unwrap();
    store.join(commit(1, &token)).await.unwrap();

    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let mut seen_label = false;
    for text in [token.expose_text(), access.expose_text()] {
        for name in [DATABASE_FILE, "hub.db-wal", "hub.db-shm", LOCK_FILE] {
            let path = state.join(name);
            assert_eq!(mode(&path), 0o600, "{name}");
            let bytes = std::fs::read(&path).unwrap();
            seen_label |= contains(&bytes, b"canary");
            for canary in forms(text.expose()) {
                assert!(!contains(&bytes, &canary), "{name}");
            }
        }
    }
    assert!(seen_label, "the search finds what is there");
    drop(store);
    let bytes = std::fs::read(state.join(DATABASE_FILE)).unwrap();
    assert!(contains(&bytes, b"canary"));
    for text in [token.expose_text(), access.expose_text()] {
        assert!(forms(text.expose()).iter().all(|canary| !contains(&bytes, canary)));
    }
}

fn contains(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary)
}

/// A secret as it is written in tokens, as bytes, and in hexadecimal.
fn forms(token: &str) -> [Vec<u8>; 3] {
    // The secret may hold the separator too: it is all that follows the second one.
    let base64url = token.splitn(3, '_').nth(2).unwrap();
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let bits = base64url.bytes().flat_map(|c| (0..6).rev().map(move |bit| (digit(c) >> bit) & 1));
    let bits: Vec<u8> = bits.collect();
    let raw: Vec<u8> =
        bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, bit| (sum << 1) | bit)).collect();
    assert_eq!(raw.len(), 32);
    let hex = raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    [base64url.as_bytes().to_vec(), raw, hex]
}
