//! The audit log: append, read, verify.

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::{AuditCheck, AuditEvent, AuditKind, AuditRow};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use crate::convert::{read_text, read_time, time};
use crate::error::{DbError, DbResult};

/// Longest subject and longest detail in characters; what is longer is cut off.
const MAX_TEXT: usize = 500;

const COLUMNS: &str = "seq, at, kind, subject, detail, prev_hash, hash";

/// Appends one row to the chain.
pub(crate) fn append(db: &Connection, mut event: AuditEvent, now: Timestamp) -> DbResult<()> {
    event.subject = event.subject.chars().take(MAX_TEXT).collect();
    event.detail = event.detail.chars().take(MAX_TEXT).collect();
    let last = db
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (last, prev_hash): (i64, [u8; 32]) = last.unwrap_or((0, [0; 32]));
    let seq = last + 1;
    // Read back as stored, so that a time outside the column's range still verifies.
    let at = time(now);
    let stored_at = Timestamp::from_millis(u64::try_from(at).unwrap_or_default());
    let hash = chain(&prev_hash, number(seq)?, stored_at, &event);
    let sql = "INSERT INTO audit (seq, at, kind, subject, detail, prev_hash, hash) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    db.execute(sql, params![seq, at, event.kind.name(), event.subject, event.detail, prev_hash, hash])?;
    Ok(())
}

/// The last rows, oldest first.
pub(crate) fn tail(db: &Connection, limit: u32) -> DbResult<Vec<AuditRow>> {
    let sql = format!("SELECT {COLUMNS} FROM audit ORDER BY seq DESC LIMIT ?1");
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(params![limit])?;
    let mut tail = Vec::new();
    while let Some(row) = rows.next()? {
        tail.push(read(row)?);
    }
    tail.reverse();
    Ok(tail)
}

/// Walks the whole chain.
pub(crate) fn verify(db: &Connection) -> DbResult<AuditCheck> {
    let mut statement = db.prepare(&format!("SELECT {COLUMNS} FROM audit ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    let mut check = AuditCheck { rows: 0, broken_at: None, head: [0; 32] };
    while let Some(row) = rows.next()? {
        let seq = number(row.get(0)?)?;
        check.rows += 1;
        let follows = read(row).is_ok_and(|row| {
            row.seq == check.rows
                && row.prev_hash == check.head
                && row.hash == chain(&row.prev_hash, row.seq, row.at, &row.event)
        });
        if !follows && check.broken_at.is_none() {
            check.broken_at = Some(seq);
        }
        check.head = row.get(6)?;
    }
    Ok(check)
}

fn read(row: &Row<'_>) -> DbResult<AuditRow> {
    let kind: AuditKind = read_text(row, 2)?;
    Ok(AuditRow {
        seq: number(row.get(0)?)?,
        at: read_time(row, 1)?,
        event: AuditEvent { kind, subject: row.get(3)?, detail: row.get(4)? },
        prev_hash: row.get(5)?,
        hash: row.get(6)?,
    })
}

fn chain(prev_hash: &[u8; 32], seq: u64, at: Timestamp, event: &AuditEvent) -> [u8; 32] {
    Sha256::new().chain_update(prev_hash).chain_update(AuditRow::canonical(seq, at, event)).finalize().into()
}

fn number(seq: i64) -> DbResult<u64> {
    u64::try_from(seq).map_err(|_| DbError::Damaged(format!("audit row {seq}")))
}
