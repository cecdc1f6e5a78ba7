//! What services said of themselves.

use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::PagePoint;
use blueprint_hub_registry_core::{StoreError, StoreResult};
use rusqlite::{Connection, params};

use super::prune::back;
use crate::convert::{read_time, service, time};
use crate::error::{DbError, DbResult};

/// Keeps pages, and forgets what is too old or too much.
pub(super) fn write(
    db: &Connection,
    pages: &[(ServiceKey, PagePoint)],
    keep: Duration,
    (of_service, in_all): (u32, u32),
) -> DbResult<()> {
    let mut newest = Timestamp::default();
    for (key, (at, page)) in pages {
        let (blueprint, number) = service(*key);
        let text = serde_json::to_string(page).map_err(|error| DbError::Damaged(error.to_string()))?;
        let sql = "INSERT OR REPLACE INTO qos_pages (blueprint, service, at, page) VALUES (?1, ?2, ?3, ?4)";
        db.prepare(sql)?.execute(params![blueprint, number, time(*at), text])?;
        newest = newest.max(*at);
        let sql = "DELETE FROM qos_pages WHERE blueprint = ?1 AND service = ?2 AND at <= (SELECT at FROM qos_pages \
                   WHERE blueprint = ?1 AND service = ?2 ORDER BY at DESC LIMIT 1 OFFSET ?3)";
        db.prepare(sql)?.execute(params![blueprint, number, of_service])?;
    }
    db.execute("DELETE FROM qos_pages WHERE at < ?1", params![time(back(newest, keep))])?;
    let sql =
        "DELETE FROM qos_pages WHERE id IN (SELECT id FROM qos_pages ORDER BY at DESC LIMIT -1 OFFSET ?1)";
    db.execute(sql, params![in_all])?;
    Ok(())
}

/// The newest pages of a service as they are stored, oldest first.
pub(super) fn read(
    db: &Connection,
    key: ServiceKey,
    (from, until): (Timestamp, Timestamp),
    most: u32,
) -> DbResult<Vec<(Timestamp, String)>> {
    let (blueprint, number) = service(key);
    let sql = "SELECT at, page FROM qos_pages WHERE blueprint = ?1 AND service = ?2 AND at >= ?3 AND at < ?4 \
               ORDER BY at DESC LIMIT ?5";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![blueprint, number, time(from), time(until), most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((read_time(row, 0)?, row.get(1)?));
    }
    found.reverse();
    Ok(found)
}

/// Pages as they are read.
pub(super) fn parse(pages: Vec<(Timestamp, String)>) -> StoreResult<Vec<PagePoint>> {
    let page = |(at, text): (Timestamp, String)| {
        let page = serde_json::from_str(&text).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok((at, page))
    };
    pages.into_iter().map(page).collect()
}
