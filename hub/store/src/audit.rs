//! The audit log: append, read, verify.

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::{AuditCheck, AuditEvent, AuditFilter, AuditKind, AuditRow};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use crate::convert::{read_text, read_time, time};
use crate::counters::{meta_get, meta_set};
use crate::error::{DbError, DbResult};

/// Longest subject and longest detail in characters; what is longer is cut off.
const MAX_TEXT: usize = 500;

/// Where the hash of the last row is noted.
const HEAD: &str = "audit.head";

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
    let (last, last_hash): (i64, [u8; 32]) = last.unwrap_or((0, [0; 32]));
    let seq = last + 1;
    // Where rows are gone from the end, the chain goes on from the one that was last: so it shows for good.
    let prev_hash = noted_head(db)?.unwrap_or(last_hash);
    // Read back as stored, so that a time outside the column's range still verifies.
    let at = time(now);
    let stored_at = Timestamp::from_millis(u64::try_from(at).unwrap_or_default());
    let hash = chain(&prev_hash, number(seq)?, stored_at, &event);
    let sql = "INSERT INTO audit (seq, at, kind, subject, detail, prev_hash, hash) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    db.execute(sql, params![seq, at, event.kind.name(), event.subject, event.detail, prev_hash, hash])?;
    meta_set(db, HEAD, &encode_hash(&hash))
}

/// The last rows, oldest first.
pub(crate) fn tail(db: &Connection, limit: u32) -> DbResult<Vec<AuditRow>> {
    find(db, &AuditFilter { limit, ..AuditFilter::default() })
}

/// The last rows that fit, oldest first.
pub(crate) fn find(db: &Connection, filter: &AuditFilter) -> DbResult<Vec<AuditRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM audit \
         WHERE (?1 IS NULL OR at >= ?1) \
         AND (?2 IS NULL OR kind = ?2 OR substr(kind, 1, length(?2) + 1) = ?2 || '.') \
         AND (?3 IS NULL OR subject = ?3 OR instr(' ' || detail || ' ', ' service ' || ?3 || ' ') > 0 \
              OR instr(' ' || detail, ' service ' || ?3 || ',') > 0) \
         AND (?4 IS NULL OR hash = ?4) \
         ORDER BY seq DESC LIMIT ?5"
    );
    let AuditFilter { since, kind, service, hash, limit } = filter;
    let service = service.map(|service| service.to_string());
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(params![since.map(time), kind, service, hash, limit])?;
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
    if check.broken_at.is_none() && noted_head(db)?.is_some_and(|head| head != check.head) {
        check.broken_at = Some(check.rows + 1);
    }
    Ok(check)
}

/// The hash of the last row as it is noted apart from the rows; `None` in a database of before that was done.
fn noted_head(db: &Connection) -> DbResult<Option<[u8; 32]>> {
    let Some(text) = meta_get(db, HEAD)? else { return Ok(None) };
    let damaged = || DbError::Damaged(format!("the setting {HEAD}"));
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(damaged());
    }
    for (byte, place) in hash.iter_mut().zip((0..text.len()).step_by(2)) {
        let digits = text.get(place..place + 2).ok_or_else(damaged)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| damaged())?;
    }
    Ok(Some(hash))
}

fn encode_hash(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
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
