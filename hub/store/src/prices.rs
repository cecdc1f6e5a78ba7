//! Price lists of providers.

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::PriceStore;
use blueprint_hub_provision_core::lifecycle::RecordsResult;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};

use crate::SqliteStore;
use crate::convert::{read_time, time};
use crate::error::DbResult;
use crate::lifecycle::told;

impl PriceStore for SqliteStore {
    fn price_lists(&self) -> BoxFuture<'_, RecordsResult<Vec<(String, Timestamp, String)>>> {
        const ACTION: &str = "read the price lists";
        Box::pin(async { told(ACTION, self.queue.call(ACTION, list).await) })
    }

    fn set_price_list(
        &self,
        provider: String,
        asked_at: Timestamp,
        rows: String,
    ) -> BoxFuture<'_, RecordsResult<()>> {
        const ACTION: &str = "store a price list";
        Box::pin(async move {
            told(ACTION, self.queue.call(ACTION, move |db| set(db, &provider, asked_at, &rows)).await)
        })
    }
}

fn list(db: &Connection) -> DbResult<Vec<(String, Timestamp, String)>> {
    let mut statement = db.prepare("SELECT provider, asked_at, rows FROM price_lists ORDER BY provider")?;
    let mut found = statement.query([])?;
    let mut lists = Vec::new();
    while let Some(row) = found.next()? {
        lists.push((row.get(0)?, read_time(row, 1)?, row.get(2)?));
    }
    Ok(lists)
}

fn set(db: &Connection, provider: &str, asked_at: Timestamp, rows: &str) -> DbResult<()> {
    let sql = "INSERT INTO price_lists (provider, asked_at, rows) VALUES (?1, ?2, ?3) \
               ON CONFLICT (provider) DO UPDATE SET asked_at = excluded.asked_at, rows = excluded.rows";
    db.execute(sql, params![provider, time(asked_at), rows])?;
    Ok(())
}
