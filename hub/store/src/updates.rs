//! Updates of workloads that are under way. What serves is the row of the workload, whatever an update does.

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{
    NewUpdate, NextRun, Phase, StoredUpdate, Update, Version, VersionOutcome, WorkloadRecord,
};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, OptionalExtension, params};

use crate::convert::service;
use crate::error::{DbError, DbResult};
use crate::workloads::{find, next, write};
use crate::{audit, versions};

/// Every update, with what nodes run for it. One whose workload is gone is left out.
pub(crate) fn list(db: &Connection) -> DbResult<Vec<StoredUpdate>> {
    let mut statement = db.prepare("SELECT state FROM workload_updates")?;
    let mut rows = statement.query([])?;
    let mut updates = Vec::new();
    while let Some(row) = rows.next()? {
        let update = parse(&row.get::<_, String>(0)?)?;
        updates.extend(with_records(db, update)?);
    }
    Ok(updates)
}

/// The update of one service.
pub(crate) fn get(db: &Connection, key: ServiceKey) -> DbResult<Option<Update>> {
    let sql = "SELECT state FROM workload_updates WHERE blueprint = ?1 AND service = ?2";
    let (blueprint, number) = service(key);
    let text: Option<String> = db.query_row(sql, params![blueprint, number], |row| row.get(0)).optional()?;
    text.as_deref().map(parse).transpose()
}

fn parse(text: &str) -> DbResult<Update> {
    Update::from_text(text).map_err(|error| DbError::Damaged(format!("an update: {error}")))
}

fn with_records(db: &Connection, update: Update) -> DbResult<Option<StoredUpdate>> {
    let Some(record) = find(db, update.service)? else { return Ok(None) };
    let next = next_record(db, &update)?;
    Ok(Some(StoredUpdate { update, record, next }))
}

/// What runs as the next version beside the one that serves.
fn next_record(db: &Connection, update: &Update) -> DbResult<Option<WorkloadRecord>> {
    let Some(run) = update.next else { return Ok(None) };
    let version = versions::find(db, update.service, update.to)?;
    let version = version.ok_or_else(|| {
        DbError::Damaged(format!("{} is updated to version {}, which is not kept", update.service, update.to))
    })?;
    Ok(Some(WorkloadRecord {
        service: update.service,
        generation: run.generation,
        document: version.document,
        nodes: version.nodes,
        node: Some(run.node),
        keystore: version.keystore,
        changed_at: version.made_at,
        version: update.to,
        slot: run.slot,
    }))
}

/// Stores a new version, and the update to it.
pub(crate) fn begin(db: &Connection, new: NewUpdate) -> DbResult<Option<StoredUpdate>> {
    let before = find(db, new.service)?.filter(|record| record.generation == new.replaces);
    let Some(before) = before.filter(|_| matches!(get(db, new.service), Ok(None))) else { return Ok(None) };
    let number = versions::next_number(db, Some(&before))?;
    let generation = next(before.generation, new.now);
    let NewUpdate { service, plan, now, .. } = new;
    let version = Version {
        service,
        number,
        document: new.document.clone(),
        nodes: new.nodes.clone(),
        keystore: new.keystore.clone(),
        made_at: now,
        by: new.by,
        strategy: plan.strategy.label().to_owned(),
        repeats: new.repeats,
        outcome: VersionOutcome::Updating,
        reason: String::new(),
        decided_at: now,
    };
    versions::add(db, &version)?;
    let update = Update {
        service,
        from: before.version,
        to: number,
        plan,
        phase: Phase::Starting,
        reason: String::new(),
        is_aborted: false,
        began_at: now,
        since: now,
        next: new.place.map(|(node, slot)| NextRun { generation, slot, node }),
        needs_target: new.needs_target,
        is_covered: false,
        replicas: new.replicas,
        rolled: 0,
    };
    save_new(db, &update)?;
    let detail =
        format_args!("from version {} to {number} by {}", before.version, update.plan.strategy.label());
    audit::append(db, AuditEvent::new(AuditKind::WorkloadUpdate, service, detail), now)?;
    if update.next.is_none() {
        let stays = |node: &_| new.nodes.is_empty() || new.nodes.contains(node);
        let record = WorkloadRecord {
            generation,
            document: new.document,
            node: before.node.filter(stays),
            nodes: new.nodes,
            keystore: new.keystore,
            changed_at: now,
            version: number,
            ..before
        };
        write(db, &record)?;
    }
    with_records(db, update)
}

fn save_new(db: &Connection, update: &Update) -> DbResult<()> {
    let (blueprint, number) = service(update.service);
    let sql = "INSERT INTO workload_updates (blueprint, service, state) VALUES (?1, ?2, ?3)";
    db.execute(sql, params![blueprint, number, text(update)?])?;
    Ok(())
}

/// Stores the phase of an update.
pub(crate) fn save(db: &Connection, update: &Update) -> DbResult<()> {
    let (blueprint, number) = service(update.service);
    let sql = "UPDATE workload_updates SET state = ?3 WHERE blueprint = ?1 AND service = ?2";
    db.execute(sql, params![blueprint, number, text(update)?])?;
    Ok(())
}

fn text(update: &Update) -> DbResult<String> {
    update.to_text().map_err(|error| DbError::Damaged(format!("an update: {error}")))
}

fn forget(db: &Connection, key: ServiceKey) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let sql = "DELETE FROM workload_updates WHERE blueprint = ?1 AND service = ?2";
    db.execute(sql, params![blueprint, number])?;
    Ok(())
}

/// The next version is the one that serves.
pub(crate) fn finish(db: &Connection, key: ServiceKey, now: Timestamp) -> DbResult<Option<WorkloadRecord>> {
    let Some(update) = get(db, key)? else { return Ok(None) };
    let Some(before) = find(db, key)? else { return Ok(None) };
    let record = next_record(db, &update)?.unwrap_or(before);
    write(db, &record)?;
    forget(db, key)?;
    versions::decide(db, (key, update.from), VersionOutcome::Replaced, "", now)?;
    versions::decide(db, (key, update.to), VersionOutcome::Current, "", now)?;
    let detail = format_args!("version {} in place of {}", update.to, update.from);
    audit::append(db, AuditEvent::new(AuditKind::WorkloadUpdated, key, detail), now)?;
    Ok(Some(record))
}

/// The version that served before is the one that serves.
pub(crate) fn take_back(
    db: &Connection,
    key: ServiceKey,
    reason: &str,
    now: Timestamp,
) -> DbResult<Option<WorkloadRecord>> {
    let Some(update) = get(db, key)? else { return Ok(None) };
    let Some(mut record) = find(db, key)? else { return Ok(None) };
    if update.next.is_none() {
        let version = versions::find(db, key, update.from)?;
        let version = version.ok_or_else(|| {
            DbError::Damaged(format!("{key} goes back to version {}, which is not kept", update.from))
        })?;
        let stays = |node: &_| version.nodes.is_empty() || version.nodes.contains(node);
        record = WorkloadRecord {
            generation: next(record.generation, now),
            document: version.document.clone(),
            node: record.node.filter(stays),
            keystore: version.keystore.clone(),
            changed_at: now,
            version: update.from,
            nodes: version.nodes.clone(),
            ..record
        };
        write(db, &record)?;
    }
    forget(db, key)?;
    let outcome = if update.is_aborted { VersionOutcome::Aborted } else { VersionOutcome::Failed };
    versions::decide(db, (key, update.to), outcome, reason, now)?;
    let detail = format_args!("version {}: {reason}", update.to);
    audit::append(db, AuditEvent::new(AuditKind::WorkloadTakeBack, key, detail), now)?;
    Ok(Some(record))
}
