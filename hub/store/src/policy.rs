//! The policy between machines: one row, its version and its audit row.

use blueprint_hub_registry_core::{AuditEvent, AuditKind, PolicyChange, PolicyChangeError, PolicyRecord};
use rusqlite::{Connection, params};

use crate::audit;
use crate::convert::{read_time, time};
use crate::error::{DbError, DbResult};

pub(crate) fn load(db: &Connection) -> DbResult<Option<PolicyRecord>> {
    let mut statement = db.prepare("SELECT version, document, changed_at, changed_by FROM policy")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let version: i64 = row.get(0)?;
    let version =
        u64::try_from(version).map_err(|_| DbError::Damaged(format!("the policy has version {version}")))?;
    let (document, changed_by) = (row.get(1)?, row.get(3)?);
    Ok(Some(PolicyRecord { version, document, changed_at: read_time(row, 2)?, changed_by }))
}

/// Replaces the policy, unless somebody did since `change` was made.
pub(crate) fn change(
    db: &Connection,
    change: PolicyChange,
) -> DbResult<Result<PolicyRecord, PolicyChangeError>> {
    let current = load(db)?.map_or(0, |record| record.version);
    if change.replaces.is_some_and(|version| version != current) {
        return Ok(Err(PolicyChangeError::Conflict { current }));
    }
    let PolicyChange { document, changed_by, summary, now, .. } = change;
    let record = PolicyRecord { version: current.saturating_add(1), document, changed_at: now, changed_by };
    let sql = "INSERT INTO policy (id, version, document, changed_at, changed_by) VALUES (1, ?1, ?2, ?3, ?4) \
               ON CONFLICT (id) DO UPDATE SET version = excluded.version, document = excluded.document, \
               changed_at = excluded.changed_at, changed_by = excluded.changed_by";
    let version = i64::try_from(record.version).unwrap_or(i64::MAX);
    db.execute(sql, params![version, record.document, time(now), record.changed_by])?;
    let subject = format_args!("version {}", record.version);
    let detail = format_args!("{summary}; by {}", record.changed_by);
    audit::append(db, AuditEvent::new(AuditKind::PolicySet, subject, detail), now)?;
    Ok(Ok(record))
}
