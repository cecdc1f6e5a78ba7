//! What is too old, or too much, goes.

use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::qos::{Keep, Pruned, Step};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::table;
use crate::convert::time;
use crate::error::{DbError, DbResult};

/// Most rows that one call deletes for their number: the rest goes with the next.
const MOST_AT_ONCE: u64 = 200_000;

/// Deletes what is too old at `now`, and the oldest of what is too much.
pub(super) fn prune(db: &Connection, keep: Keep, now: Timestamp) -> DbResult<Pruned> {
    let mut pruned = Pruned::default();
    let ages = [(Step::Sample, keep.samples), (Step::Minute, keep.minutes), (Step::Hour, keep.hours)];
    for (step, age) in ages {
        let before = back(now, age);
        pruned.old = pruned.old.saturating_add(forget(db, "true", step, before)?);
        let left = count(db, "true", step)?;
        let counted = count(db, counts(step), step)?;
        let many = counted.saturating_sub(keep.rows).min(MOST_AT_ONCE);
        let gone = if many > 0 { forget_oldest(db, step, many)? } else { 0 };
        pruned.many = pruned.many.saturating_add(gone);
        let left = left.saturating_sub(gone);
        match step {
            Step::Sample => pruned.samples = left,
            Step::Minute => pruned.minutes = left,
            Step::Hour => pruned.hours = left,
        }
    }
    let sql = "DELETE FROM qos_subjects WHERE NOT EXISTS (SELECT 1 FROM qos_minutes WHERE subject = id) \
               AND NOT EXISTS (SELECT 1 FROM qos_hours WHERE subject = id) \
               AND NOT EXISTS (SELECT 1 FROM qos_samples WHERE subject = id)";
    db.execute(sql, [])?;
    Ok(pruned)
}

/// `now` less a time; 1970 where that is before it.
pub(super) fn back(now: Timestamp, age: Duration) -> Timestamp {
    let epoch = Timestamp::default();
    epoch.plus(now.since(epoch.plus(age)))
}

/// Which subjects' rows count towards the most. The hours of services do not: reports are made of them.
const fn counts(step: Step) -> &'static str {
    match step {
        Step::Sample | Step::Minute => "true",
        Step::Hour => "kind <> 0",
    }
}

/// Deletes rows before a time. By the subject, since the key begins with it.
fn forget(db: &Connection, which: &str, step: Step, before: Timestamp) -> DbResult<u64> {
    let sql = format!(
        "DELETE FROM {} WHERE at < ?1 AND subject IN (SELECT id FROM qos_subjects WHERE {which})",
        table(step)
    );
    Ok(u64::try_from(db.execute(&sql, params![time(before)])?).unwrap_or(u64::MAX))
}

/// Deletes at least so many of the oldest rows: whole moments, so that no subject is left out.
fn forget_oldest(db: &Connection, step: Step, many: u64) -> DbResult<u64> {
    let which = counts(step);
    let sql = format!(
        "SELECT at FROM {} WHERE subject IN (SELECT id FROM qos_subjects WHERE {which}) \
         ORDER BY at LIMIT 1 OFFSET ?1",
        table(step)
    );
    let offset = i64::try_from(many - 1).unwrap_or(i64::MAX);
    let newest = db.query_row(&sql, params![offset], |row| row.get::<_, i64>(0)).optional()?;
    let Some(newest) = newest else { return Ok(0) };
    let newest = u64::try_from(newest).map_err(|_| DbError::Damaged("a row is before 1970".to_owned()))?;
    forget(db, which, step, Timestamp::from_millis(newest + 1))
}

fn count(db: &Connection, which: &str, step: Step) -> DbResult<u64> {
    let sql = format!(
        "SELECT count(*) FROM {} WHERE subject IN (SELECT id FROM qos_subjects WHERE {which})",
        table(step)
    );
    let count: i64 = db.query_row(&sql, [], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}
