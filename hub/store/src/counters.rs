//! Numbers that only grow, and small texts.

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{DbError, DbResult};

/// How far the index jumps at every open.
///
/// A watcher may have seen changes that were not yet saved when the hub was killed; the jump makes
/// sure that their numbers are not given again. 2^33 starts fit below 2^53, where JSON numbers end.
const INDEX_JUMP: i64 = 1 << 20;

/// Raises the index for a new process.
pub(crate) fn jump_index(db: &Connection) -> DbResult<()> {
    add(db, "index", INDEX_JUMP).map(drop)
}

/// Index of the last change.
pub(crate) fn index(db: &Connection) -> DbResult<u64> {
    add(db, "index", 0)
}

/// Saves the index of the last change; a smaller one than saved is left out.
pub(crate) fn save_index(db: &Connection, index: u64) -> DbResult<()> {
    let index = i64::try_from(index).unwrap_or(i64::MAX);
    db.execute("UPDATE counters SET value = max(value, ?1) WHERE name = 'index'", params![index])?;
    Ok(())
}

/// Counts one start of the hub.
pub(crate) fn epoch_next(db: &Connection) -> DbResult<u64> {
    add(db, "epoch", 1)
}

pub(crate) fn meta_get(db: &Connection, key: &str) -> DbResult<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    Ok(db.query_row(sql, params![key], |row| row.get(0)).optional()?)
}

pub(crate) fn meta_set(db: &Connection, key: &str, value: &str) -> DbResult<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) \
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    db.execute(sql, params![key, value])?;
    Ok(())
}

fn add(db: &Connection, name: &str, step: i64) -> DbResult<u64> {
    let sql = "UPDATE counters SET value = value + ?2 WHERE name = ?1 RETURNING value";
    let value: i64 = db.query_row(sql, params![name, step], |row| row.get(0))?;
    u64::try_from(value).map_err(|_| DbError::Damaged(format!("the counter {name} is {value}")))
}
