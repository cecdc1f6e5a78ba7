//! Assertions that were used, until they have expired.

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::AssertionRecord;
use rusqlite::{Connection, params};

use crate::convert::{read_service, read_time, service, time};
use crate::error::DbResult;

/// Rows that one use forgets at most, so that none of them takes long.
const SWEEP: u32 = 256;

pub(crate) fn list(db: &Connection, now: Timestamp) -> DbResult<Vec<AssertionRecord>> {
    db.execute("DELETE FROM used_assertions WHERE until <= ?1", params![time(now)])?;
    let mut statement = db.prepare("SELECT blueprint, service, hash, until FROM used_assertions")?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(AssertionRecord {
            service: read_service(row, 0)?,
            hash: row.get(2)?,
            until: read_time(row, 3)?,
        });
    }
    Ok(records)
}

/// Saves that it was used; false where it was before.
pub(crate) fn use_up(db: &Connection, record: &AssertionRecord, now: Timestamp) -> DbResult<bool> {
    let sql = "DELETE FROM used_assertions WHERE (blueprint, service, hash) IN \
               (SELECT blueprint, service, hash FROM used_assertions WHERE until <= ?1 ORDER BY until LIMIT ?2)";
    db.prepare(sql)?.execute(params![time(now), SWEEP])?;
    let (blueprint, number) = service(record.service);
    let sql = "INSERT INTO used_assertions (blueprint, service, hash, until) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (blueprint, service, hash) DO UPDATE SET until = excluded.until \
               WHERE used_assertions.until <= ?5";
    let row = params![blueprint, number, record.hash, time(record.until), time(now)];
    Ok(db.prepare(sql)?.execute(row)? > 0)
}
