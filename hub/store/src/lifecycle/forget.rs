//! When clouds were looked at, and what is old enough to be forgotten then.

use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::lifecycle::{RecordState, Wanted};
use rusqlite::{Connection, params};

use super::spans;
use crate::convert::time;
use crate::costs;
use crate::counters::{meta_get, meta_set};
use crate::error::DbResult;

/// How long a deployment that ended is remembered.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long a machine that ended is remembered while its deployment goes on, and how many of them at most; what ended
/// within the last day is, however many these are, for the pauses between replacements are counted from it.
const ENDED_REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
const ENDED_AT_MOST: u32 = 500;
const ENDED_LATELY: Duration = Duration::from_secs(24 * 3600);

/// Steps of one deployment that are remembered at most.
const EVENTS_AT_MOST: u32 = 10_000;

/// How long it is remembered what a machine cost: thirteen months.
const SPANS_REMEMBERED: Duration = Duration::from_secs(400 * 24 * 3600);

const HOUR_MS: u64 = 3600 * 1000;

/// When clouds were last looked at.
pub(super) const SCANNED_AT: &str = "provision.scanned_at";

pub(super) fn note_scan(db: &Connection, now: Timestamp) -> DbResult<()> {
    let last: Option<u64> = meta_get(db, SCANNED_AT)?.and_then(|text| text.parse().ok());
    meta_set(db, SCANNED_AT, &now.as_millis().to_string())?;
    // Once an hour is enough.
    if last.map(|last| last / HOUR_MS) == Some(now.as_millis() / HOUR_MS) {
        return Ok(());
    }
    forget(db, now)
}

/// Forgets what is older than it is remembered.
fn forget(db: &Connection, now: Timestamp) -> DbResult<()> {
    let before = |age: Duration| {
        let epoch = Timestamp::default();
        time(epoch.plus(now.since(epoch.plus(age))))
    };
    let [gone, lost, failed] =
        [RecordState::Gone, RecordState::Lost, RecordState::Failed].map(RecordState::label);
    let sql = "DELETE FROM deployments WHERE wanted = ?1 AND changed_at < ?2 AND NOT EXISTS \
               (SELECT 1 FROM instances WHERE deployment = deployments.id AND state NOT IN (?3, ?4, ?5))";
    db.execute(sql, params![Wanted::Gone.label(), before(REMEMBERED), gone, lost, failed])?;
    // The last of each deployment stays: numbers go on from it and are never given twice.
    let sql = "DELETE FROM instances AS old WHERE state IN (?1, ?2, ?3) \
                AND number < (SELECT max(number) FROM instances WHERE deployment = old.deployment) \
                AND (since < ?4 OR (since < ?5 AND number <= (SELECT number FROM instances \
                      WHERE deployment = old.deployment AND state IN (?1, ?2, ?3) \
                      ORDER BY number DESC LIMIT 1 OFFSET ?6)))";
    let values = params![gone, lost, failed, before(ENDED_REMEMBERED), before(ENDED_LATELY), ENDED_AT_MOST];
    db.execute(sql, values)?;
    spans::forget(db, before(SPANS_REMEMBERED))?;
    let epoch = Timestamp::default();
    costs::forget(db, epoch.plus(now.since(epoch.plus(SPANS_REMEMBERED))))?;
    db.execute("DELETE FROM lifecycle_events WHERE at < ?1", params![before(REMEMBERED)])?;
    let sql = "SELECT deployment FROM lifecycle_events GROUP BY deployment HAVING count(*) > ?1";
    let mut statement = db.prepare(sql)?;
    let many = statement.query_map(params![EVENTS_AT_MOST], |row| row.get::<_, String>(0))?;
    for deployment in many.collect::<rusqlite::Result<Vec<_>>>()? {
        let sql = "DELETE FROM lifecycle_events WHERE deployment = ?1 AND seq <= (SELECT seq FROM lifecycle_events \
                    WHERE deployment = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)";
        db.execute(sql, params![deployment, EVENTS_AT_MOST])?;
    }
    Ok(())
}
