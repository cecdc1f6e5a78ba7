//! Join tokens and access tokens, by their public half and the hash of the other.

use std::time::Duration;

use blueprint_common_types::{Timestamp, TokenHash, TokenId};
use blueprint_hub_registry_core::{AccessTokenRecord, AuditEvent, AuditKind, JoinTokenRecord};
use rusqlite::{Connection, params};

use crate::audit;
use crate::convert::{read_optional_text, read_optional_time, read_text, read_time, time};
use crate::error::DbResult;

/// How long an expired join token is kept, so that a late join is told what happened to it.
const KEEP_EXPIRED: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) fn create_join(db: &Connection, record: &JoinTokenRecord) -> DbResult<()> {
    let now = record.created_at;
    let epoch = Timestamp::default();
    let gone = epoch.plus(now.since(epoch.plus(KEEP_EXPIRED)));
    db.execute("DELETE FROM join_tokens WHERE expires_at < ?1", params![time(gone)])?;
    let sql = "INSERT INTO join_tokens \
               (id, hash, label, created_at, expires_at, uses_left, uses, services, address) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        record.id.to_string(),
        record.hash.as_bytes(),
        record.label,
        time(now),
        time(record.expires_at),
        record.uses_left,
        record.uses,
        record.services.to_string(),
        record.address.map(|address| address.to_string()),
    ];
    db.execute(sql, values)?;
    let address = record.address.map(|address| format!(", address {address}")).unwrap_or_default();
    let detail = format_args!(
        "label {:?}, {} uses until {}, services {:?}{address}",
        record.label,
        record.uses,
        record.expires_at,
        record.services.to_string()
    );
    audit::append(db, AuditEvent::new(AuditKind::JoinTokenCreate, record.id, detail), now)
}

pub(crate) fn list_join(db: &Connection) -> DbResult<Vec<JoinTokenRecord>> {
    let sql = "SELECT id, hash, label, created_at, expires_at, uses_left, uses, services, address \
               FROM join_tokens ORDER BY created_at, id";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(JoinTokenRecord {
            id: read_text(row, 0)?,
            hash: TokenHash::from_bytes(row.get(1)?),
            label: row.get(2)?,
            created_at: read_time(row, 3)?,
            expires_at: read_time(row, 4)?,
            uses_left: row.get(5)?,
            uses: row.get(6)?,
            services: read_text(row, 7)?,
            address: read_optional_text(row, 8)?,
        });
    }
    Ok(tokens)
}

pub(crate) fn revoke_join(db: &Connection, id: TokenId, now: Timestamp) -> DbResult<bool> {
    let gone = db.execute("DELETE FROM join_tokens WHERE id = ?1", params![id.to_string()])? > 0;
    if gone {
        audit::append(db, AuditEvent::new(AuditKind::JoinTokenRevoke, id, ""), now)?;
    }
    Ok(gone)
}

pub(crate) fn create_access(db: &Connection, record: &AccessTokenRecord) -> DbResult<()> {
    let sql = "INSERT INTO access_tokens (id, hash, label, created_at, expires_at, revoked_at, services) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = params![
        record.id.to_string(),
        record.hash.as_bytes(),
        record.label,
        time(record.created_at),
        record.expires_at.map(time),
        record.revoked_at.map(time),
        record.services.to_string(),
    ];
    db.execute(sql, values)?;
    let detail = format_args!("label {:?}, services {}", record.label, record.services);
    audit::append(db, AuditEvent::new(AuditKind::AccessTokenCreate, record.id, detail), record.created_at)
}

pub(crate) fn list_access(db: &Connection) -> DbResult<Vec<AccessTokenRecord>> {
    let sql = "SELECT id, hash, label, created_at, expires_at, revoked_at, services \
               FROM access_tokens ORDER BY created_at, id";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(AccessTokenRecord {
            id: read_text(row, 0)?,
            hash: TokenHash::from_bytes(row.get(1)?),
            label: row.get(2)?,
            created_at: read_time(row, 3)?,
            expires_at: read_optional_time(row, 4)?,
            revoked_at: read_optional_time(row, 5)?,
            services: read_text(row, 6)?,
        });
    }
    Ok(tokens)
}

pub(crate) fn revoke_access(db: &Connection, id: TokenId, now: Timestamp) -> DbResult<bool> {
    let sql = "UPDATE access_tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
    let revoked = db.execute(sql, params![id.to_string(), time(now)])? > 0;
    if revoked {
        audit::append(db, AuditEvent::new(AuditKind::AccessTokenRevoke, id, ""), now)?;
    }
    Ok(revoked)
}
