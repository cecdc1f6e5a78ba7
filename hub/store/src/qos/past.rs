//! What outlives rows and restarts: when a service was seen first, and what was offered when the hub ran last.

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::{Past, QosRows, Step, Subject};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{COLUMNS, read, subjects, table};
use crate::convert::{read_agent_id, read_service, read_time, service, time};
use crate::error::DbResult;

/// What was seen up or down so long before the newest minute was offered then: 15 minutes, in milliseconds.
const LATELY: i64 = 900_000;

/// Keeps the hour in which a service was seen first.
pub(super) fn seen(db: &Connection, key: ServiceKey, minute: Timestamp) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let sql = "INSERT INTO qos_first (blueprint, service, at) VALUES (?1, ?2, ?3) \
               ON CONFLICT (blueprint, service) DO UPDATE SET at = excluded.at WHERE excluded.at < at";
    db.execute(sql, params![blueprint, number, time(Step::Hour.of(minute))])?;
    Ok(())
}

/// Start of the hour in which a service was seen first.
pub(super) fn begins(db: &Connection, key: ServiceKey) -> DbResult<Option<Timestamp>> {
    let (blueprint, number) = service(key);
    let sql = "SELECT at FROM qos_first WHERE blueprint = ?1 AND service = ?2";
    db.query_row(sql, params![blueprint, number], |row| Ok(read_time(row, 0))).optional()?.transpose()
}

/// What was known when the hub ran last.
pub(super) fn past(db: &Connection) -> DbResult<Past> {
    let of = |kind: &str, table: &str| {
        format!(
            "SELECT max(last) FROM (SELECT (SELECT at FROM {table} WHERE subject = id ORDER BY at DESC LIMIT 1) \
                 AS last FROM qos_subjects {kind})"
        )
    };
    let newest = |sql: &str| db.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    let mut past = Past::default();
    if newest(&of("", table(Step::Minute)))?.is_some() {
        past.newest = Some(db.query_row(&of("", table(Step::Minute)), [], |row| Ok(read_time(row, 0)))??);
    }
    let Some(last) = newest(&of("WHERE kind = 0", table(Step::Minute)))? else { return Ok(past) };
    // Of each service that was seen lately, the machine whose target has the newest hour.
    let sql = "SELECT s.blueprint, s.service, t.agent, \
               (SELECT at FROM qos_hours WHERE subject = t.id ORDER BY at DESC LIMIT 1) AS newest \
               FROM qos_subjects s JOIN qos_subjects t \
               ON t.kind = 1 AND t.blueprint = s.blueprint AND t.service = s.service \
               WHERE s.kind = 0 AND EXISTS (SELECT 1 FROM qos_minutes WHERE subject = s.id AND at >= ?1) \
               ORDER BY newest";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![last.saturating_sub(LATELY)])?;
    while let Some(row) = rows.next()? {
        past.offered.insert(read_service(row, 0)?, read_agent_id(row, 2)?);
    }
    Ok(past)
}

/// Hours of a service, and those of all its targets joined; or those of a machine.
pub(super) fn hours(
    db: &Connection,
    of: Subject,
    (from, until): (Timestamp, Timestamp),
) -> DbResult<QosRows> {
    let sql = format!("SELECT at, {COLUMNS} FROM qos_hours WHERE subject = ?1 AND at >= ?2 AND at < ?3");
    let mut statement = db.prepare(&sql)?;
    let mut found = QosRows::new();
    let mut target = None;
    for (id, subject) in subjects(db, of)? {
        let name = match subject {
            Subject::Target(_) => *target.get_or_insert(subject),
            Subject::Service(_) | Subject::Node(_) => subject,
        };
        let mut rows = statement.query(params![id, time(from), time(until)])?;
        while let Some(row) = rows.next()? {
            found.entry((read_time(row, 0)?, name)).or_default().join(&read(row, 1)?);
        }
    }
    Ok(found)
}
