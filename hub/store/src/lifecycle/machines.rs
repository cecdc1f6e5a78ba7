//! Machines as they are called, made, joined and ended.

use blueprint_common_types::AgentId;
use blueprint_hub_provision_core::Candidate;
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{Begun, BoundToken, Record, RecordState, Wanted};
use blueprint_hub_registry_core::{AuditEvent, AuditKind, JoinTokenRecord, ServiceGrant};
use rusqlite::{Connection, OptionalExtension, params};

use super::{event, load, micros, recent_spans, spans};
use crate::convert::time;
use crate::costs::{self, egress_columns};
use crate::error::DbResult;
use crate::{audit, tokens};

pub(super) fn save(db: &Connection, record: &Record) -> DbResult<()> {
    let key = record.key.as_str();
    let sql = "SELECT state, attempt, reason, is_off FROM instances WHERE key = ?1";
    let before: Option<(String, u32, String, bool)> = db
        .query_row(sql, params![key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    if let Some((state, _, _, _)) = &before
        && !may_become(state, record.state)
    {
        let sql = "UPDATE instances SET provider_id = coalesce(?2, provider_id), made_at = coalesce(made_at, ?3) \
                   WHERE key = ?1";
        db.execute(sql, params![key, record.provider_id, record.made_at.map(time)])?;
        // It is billed until its deletion is confirmed, also where its call was answered after that was decided.
        let is_open = state == RecordState::Deleting.label();
        return if is_open { spans::follow(db, record) } else { Ok(()) };
    }
    let sql = "INSERT INTO instances \
               (key, deployment, number, provider, plan, region, spot, hourly, state, attempt, created_at, since, \
                called_at, provider_id, reason, disk_gb, arch, stopped_hourly, made_at, is_off, switched_at, deleted_at, \
                egress_gb, egress_included_gb) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, \
                ?20, ?21, ?22, ?23, ?24) \
               ON CONFLICT (key) DO UPDATE SET state = excluded.state, attempt = excluded.attempt, \
                since = excluded.since, called_at = excluded.called_at, provider_id = excluded.provider_id, \
                reason = excluded.reason, made_at = excluded.made_at, is_off = excluded.is_off, \
                switched_at = excluded.switched_at, deleted_at = excluded.deleted_at";
    let offer = &record.candidate;
    let (gb, included) = egress_columns(offer.egress);
    let values = params![
        key,
        record.deployment.as_str(),
        record.number,
        offer.provider,
        offer.plan,
        offer.region,
        offer.spot,
        micros(offer.hourly),
        record.state.label(),
        record.attempt,
        time(record.created_at),
        time(record.since),
        record.called_at.map(time),
        record.provider_id,
        record.reason,
        offer.disk_gb,
        offer.arch.as_str(),
        micros(offer.stopped_hourly),
        record.made_at.map(time),
        record.is_off,
        record.switched_at.map(time),
        record.deleted_at.map(time),
        gb,
        included,
    ];
    db.execute(sql, values)?;
    spans::follow(db, record)?;
    let now = (record.state.label(), record.attempt, record.reason.as_str());
    let same = before
        .as_ref()
        .is_some_and(|(state, attempt, reason, _)| (state.as_str(), *attempt, reason.as_str()) == now);
    if same {
        let was_off = before.is_some_and(|(_, _, _, was_off)| was_off);
        return switched(db, record, was_off);
    }
    event(db, record.since, record.deployment.as_str(), Some(key), record.state.label(), &record.reason)?;
    audit_instance(db, record)?;
    if !record.state.is_live() {
        db.execute("UPDATE join_tokens SET uses_left = 0 WHERE instance = ?1", params![key])?;
    }
    Ok(())
}

/// Notes that its cloud lists a machine as off, or as on again.
fn switched(db: &Connection, record: &Record, was_off: bool) -> DbResult<()> {
    if record.is_off == was_off {
        return Ok(());
    }
    let (at, what) = (record.switched_at.unwrap_or(record.since), if record.is_off { "off" } else { "on" });
    event(db, at, record.deployment.as_str(), Some(record.key.as_str()), what, "as its cloud lists it")
}

/// Whether a machine in the stored state may become what it is to be: an answer that was on its way does not take back a
/// decision to end it.
fn may_become(stored: &str, next: RecordState) -> bool {
    let is = |state: RecordState| stored == state.label();
    let is_ended = is(RecordState::Gone) || is(RecordState::Lost) || is(RecordState::Failed);
    match next {
        RecordState::Planned | RecordState::Calling | RecordState::Created | RecordState::Active => {
            !is_ended && !is(RecordState::Deleting)
        }
        RecordState::Deleting => !is_ended,
        RecordState::Gone | RecordState::Lost | RecordState::Failed => true,
    }
}

fn audit_instance(db: &Connection, record: &Record) -> DbResult<()> {
    let Candidate { provider, plan, region, hourly, .. } = &record.candidate;
    let (kind, detail) = match record.state {
        RecordState::Calling => {
            let attempt = record.attempt;
            let detail =
                format!("{provider} {plan} {region} at {hourly}/h, call {attempt}, of {}", record.deployment);
            (AuditKind::InstanceCreate, detail)
        }
        RecordState::Deleting => {
            (AuditKind::InstanceDelete, format!("{provider}, of {}: {}", record.deployment, record.reason))
        }
        RecordState::Planned
        | RecordState::Created
        | RecordState::Active
        | RecordState::Gone
        | RecordState::Lost
        | RecordState::Failed => return Ok(()),
    };
    audit::append(db, AuditEvent::new(kind, &record.key, detail), record.since)
}

pub(super) fn begin(db: &Connection, record: &Record, token: &BoundToken, limits: Limits) -> DbResult<Begun> {
    let sql = "SELECT count(*) FROM instances JOIN deployments ON deployments.id = instances.deployment \
               WHERE instances.key = ?1 AND instances.attempt = ?2 AND instances.state IN (?3, ?4) \
                AND deployments.wanted = ?5";
    let (planned, calling) = (RecordState::Planned.label(), RecordState::Calling.label());
    let before = record.attempt.saturating_sub(1);
    let values = params![record.key.as_str(), before, planned, calling, Wanted::Running.label()];
    if db.query_row(sql, values, |row| row.get::<_, u32>(0))? == 0 {
        return Ok(Begun::Unwanted);
    }
    let spent = recent_spans(db, record.since)?;
    let of = (&record.deployment, record.candidate.provider.as_str());
    if let Some(held) = costs::holds(db, of, &limits, &spent, record.since)? {
        return Ok(Begun::Held(held));
    }
    if let Err(over) = limits.check_call(&load(db)?, &spent, record, record.since) {
        return Ok(Begun::OverLimit(over));
    }
    save(db, record)?;
    let services = ServiceGrant::Only(token.service.into_iter().collect());
    let row = JoinTokenRecord {
        id: token.id,
        hash: token.hash,
        label: record.key.to_string(),
        created_at: record.since,
        expires_at: token.expires_at,
        uses_left: 1,
        uses: 1,
        services,
        address: None,
    };
    tokens::create_join(db, &row)?;
    let sql = "UPDATE join_tokens SET instance = ?2, attempt = ?3 WHERE id = ?1";
    db.execute(sql, params![token.id.to_string(), record.key.as_str(), token.attempt])?;
    Ok(Begun::Stored)
}

/// Notes which agent joined as a machine; false where that machine is not to join, or has joined.
pub(crate) fn bind(db: &Connection, key: &str, agent: AgentId, attempt: u32) -> DbResult<bool> {
    let sql = "UPDATE instances SET agent = ?2, agent_attempt = ?3 \
               WHERE key = ?1 AND agent IS NULL AND state IN (?4, ?5)";
    let (calling, created) = (RecordState::Calling.label(), RecordState::Created.label());
    Ok(db.execute(sql, params![key, agent.as_bytes(), attempt, calling, created])? == 1)
}

/// The same for a machine that its cloud names: its record stands for that one, whichever call made it.
pub(crate) fn bind_listed(db: &Connection, key: &str, agent: AgentId, provider_id: &str) -> DbResult<bool> {
    let sql = "UPDATE instances SET agent = ?2, agent_attempt = 0 \
               WHERE key = ?1 AND agent IS NULL AND provider_id = ?3 AND state IN (?4, ?5)";
    let (calling, created) = (RecordState::Calling.label(), RecordState::Created.label());
    Ok(db.execute(sql, params![key, agent.as_bytes(), provider_id, calling, created])? == 1)
}
