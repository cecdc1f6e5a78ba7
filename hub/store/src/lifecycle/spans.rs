//! Times for which machines are billed.

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::cost::Span;
use blueprint_hub_provision_core::lifecycle::Record;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::micros;
use crate::convert::{read_optional_time, read_text, read_time, time};
use crate::error::{DbError, DbResult};

/// Keeps the spans of a machine equal to its record: the first begins when it was made, the last ends with it, and each time
/// that it is switched on or off, where that has another price, the next begins.
pub(super) fn follow(db: &Connection, record: &Record) -> DbResult<()> {
    let Some(made_at) = record.made_at else { return Ok(()) };
    let key = record.key.as_str();
    let sql = "SELECT begins, is_off FROM machine_spans WHERE key = ?1 ORDER BY begins DESC LIMIT 1";
    let last: Option<(i64, bool)> =
        db.query_row(sql, params![key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if record.state.is_ended() {
        return match last {
            Some(_) => end(db, key, record.since),
            None => Ok(()),
        };
    }
    let offer = &record.candidate;
    let is_off = record.is_off && offer.stopped_hourly != offer.hourly;
    let begins = match last {
        None => made_at,
        Some((_, was_off)) if was_off == is_off => return Ok(()),
        // Two of them never begin together.
        Some((begins, _)) => {
            let at = record.switched_at.unwrap_or(record.since);
            let begins = u64::try_from(begins).unwrap_or_default();
            let at = at.max(Timestamp::from_millis(begins.saturating_add(1)));
            end(db, key, at)?;
            at
        }
    };
    let hourly = micros(if is_off { offer.stopped_hourly } else { offer.hourly });
    let sql = "INSERT INTO machine_spans (key, begins, deployment, provider, is_off, hourly) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.execute(sql, params![key, time(begins), record.deployment.as_str(), offer.provider, is_off, hourly])?;
    Ok(())
}

fn end(db: &Connection, key: &str, at: Timestamp) -> DbResult<()> {
    let sql = "UPDATE machine_spans SET ends = max(begins, ?2) WHERE key = ?1 AND ends IS NULL";
    db.execute(sql, params![key, time(at)])?;
    Ok(())
}

/// Those that had not ended at `since`.
pub(super) fn load(db: &Connection, since: Timestamp) -> DbResult<Vec<Span>> {
    let sql = "SELECT key, deployment, provider, begins, ends, is_off, hourly FROM machine_spans \
               WHERE ends IS NULL OR ends >= ?1 ORDER BY begins, key";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![time(since)])?;
    let mut spans = Vec::new();
    while let Some(row) = rows.next()? {
        spans.push(span(row)?);
    }
    Ok(spans)
}

fn span(row: &Row<'_>) -> DbResult<Span> {
    let hourly: i64 = row.get(6)?;
    let hourly = u64::try_from(hourly).map_err(|_| DbError::Damaged(format!("{hourly} is not a price")))?;
    Ok(Span {
        key: read_text(row, 0)?,
        deployment: read_text(row, 1)?,
        provider: row.get(2)?,
        from: read_time(row, 3)?,
        until: read_optional_time(row, 4)?,
        is_off: row.get(5)?,
        hourly: Micros::new(hourly),
    })
}

/// Forgets what ended before `before`.
pub(super) fn forget(db: &Connection, before: i64) -> DbResult<()> {
    db.execute("DELETE FROM machine_spans WHERE ends < ?1", params![before])?;
    Ok(())
}
