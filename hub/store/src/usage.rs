//! Sums of what was used.

use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::{KeptUsage, StoreResult, UsageRow, UsageStore};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, Row, params};

use crate::SqliteStore;
use crate::convert::{read_text, read_time, time};
use crate::error::{DbError, DbResult};

impl UsageStore for SqliteStore {
    fn load_usage(&self, after: Timestamp) -> BoxFuture<'_, StoreResult<KeptUsage>> {
        Box::pin(self.queue.call("load the sums of usage", move |db| load(db, after)))
    }

    fn save_usage(
        &self,
        rows: Vec<UsageRow>,
        since: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("save sums of usage", move |db| save(db, &rows, since, now)))
    }
}

/// A count as a column; more than fits is stored as the most that does.
fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(row: &Row<'_>, index: usize) -> DbResult<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not a count")))
}

fn load(db: &Connection, after: Timestamp) -> DbResult<KeptUsage> {
    db.execute("DELETE FROM usage WHERE changed_at <= ?1", params![time(after)])?;
    let sql = "SELECT service, key, requests, refused, bytes_in, bytes_out, open_millis, since FROM usage \
               ORDER BY service, key";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut kept = KeptUsage::default();
    while let Some(row) = rows.next()? {
        let (service, key): (String, String) = (row.get(0)?, row.get(1)?);
        kept.rows.push(UsageRow {
            service: if service.is_empty() { None } else { Some(read_text(row, 0)?) },
            key: Some(key).filter(|key| !key.is_empty()),
            requests: count(row, 2)?,
            refused: count(row, 3)?,
            bytes_in: count(row, 4)?,
            bytes_out: count(row, 5)?,
            open: Duration::from_millis(count(row, 6)?),
        });
        let since = read_time(row, 7)?;
        kept.since = Some(kept.since.map_or(since, |before| before.min(since)));
    }
    Ok(kept)
}

fn save(db: &Connection, rows: &[UsageRow], since: Timestamp, now: Timestamp) -> DbResult<()> {
    let sql = "INSERT INTO usage (service, key, requests, refused, bytes_in, bytes_out, open_millis, since, changed_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
               ON CONFLICT (service, key) DO UPDATE SET requests = excluded.requests, refused = excluded.refused, \
               bytes_in = excluded.bytes_in, bytes_out = excluded.bytes_out, open_millis = excluded.open_millis, \
               changed_at = excluded.changed_at";
    let mut statement = db.prepare(sql)?;
    for row in rows {
        let service = row.service.map_or_else(String::new, |service| service.to_string());
        let open_millis = i64::try_from(row.open.as_millis()).unwrap_or(i64::MAX);
        statement.execute(params![
            service,
            row.key.as_deref().unwrap_or_default(),
            column(row.requests),
            column(row.refused),
            column(row.bytes_in),
            column(row.bytes_out),
            open_millis,
            time(since),
            time(now),
        ])?;
    }
    Ok(())
}
