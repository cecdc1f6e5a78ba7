//! Sums of usage: replaced whole, kept over restarts, forgotten after a long time.

use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::{UsageRow, UsageStore};
use blueprint_hub_store::SqliteStore;

use crate::support::{NOW, store};

/// A second before.
const BEFORE: Timestamp = Timestamp::from_millis(NOW.as_millis() - 1000);

/// A minute later.
const LATER: Timestamp = Timestamp::from_millis(NOW.as_millis() + 60_000);

fn row(key: Option<&str>, requests: u64) -> UsageRow {
    UsageRow {
        service: Some(ServiceKey { blueprint: 7, service: u64::MAX }),
        key: key.map(str::to_owned),
        requests,
        refused: 1,
        bytes_in: 2,
        bytes_out: u64::MAX,
        open: Duration::from_micros(1500),
    }
}

#[tokio::test]
async fn sums_outlive_the_process_and_the_last_one_counts() {
    let (dir, store) = store();
    let other = UsageRow { requests: 9, ..UsageRow::default() };
    store.save_usage(vec![row(None, 3), row(Some("key"), 2), other.clone()], NOW, NOW).await.unwrap();
    store.save_usage(vec![row(None, 5)], LATER, LATER).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let kept = store.load_usage(BEFORE).await.unwrap();
    assert_eq!(kept.since, Some(NOW), "the first time counts");
    // A database has signed numbers and milliseconds.
    let stored = |row: UsageRow| UsageRow {
        bytes_out: row.bytes_out.min(i64::MAX.cast_unsigned()),
        open: Duration::from_millis(u64::try_from(row.open.as_millis()).unwrap()),
        ..row
    };
    assert_eq!(kept.rows, [other, row(None, 5), row(Some("key"), 2)].map(stored));
    // What changed last a minute ago stays, what did not is forgotten for ever.
    let kept = store.load_usage(NOW).await.unwrap();
    assert_eq!(kept.rows, [stored(row(None, 5))]);
    assert_eq!(store.load_usage(BEFORE).await.unwrap().rows.len(), 1);
}
