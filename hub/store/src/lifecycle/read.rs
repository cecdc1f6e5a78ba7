//! Reading deployments, machines and their history.

use blueprint_common_types::{AgentId, Micros, Timestamp};
use blueprint_hub_provision_core::lifecycle::{Deployment, Event, Record, Records};
use blueprint_hub_provision_core::{Candidate, DeploymentId, InstanceKey};
use rusqlite::{Connection, Row, params};

use super::SCANNED_AT;
use crate::convert::{read_optional_text, read_optional_time, read_service, read_text, read_time};
use crate::costs::egress_price;
use crate::counters::meta_get;
use crate::error::{DbError, DbResult};
use crate::scaling;

const DEPLOYMENT: &str = "SELECT id, name, request_key, asked, coalesce((SELECT replicas FROM deployment_sizes \
                          WHERE deployment = deployments.id), replicas), wanted, blueprint, service, created_at, \
                          expires_at, changed_at, spread FROM deployments";

/// Everything there is.
pub(crate) fn load(db: &Connection) -> DbResult<Records> {
    let mut records = Records::default();
    let mut statement = db.prepare(DEPLOYMENT)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let deployment = deployment(db, row)?;
        records.deployments.insert(deployment.id.clone(), deployment);
    }
    let sql = "SELECT key, deployment, number, provider, plan, region, spot, hourly, disk_gb, arch, stopped_hourly, egress_gb, egress_included_gb, state, attempt, created_at, since, \
               called_at, provider_id, agent, agent_attempt, reason, made_at, is_off, \
               switched_at, deleted_at FROM instances";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let record = record(row)?;
        records.instances.insert(record.key.clone(), record);
    }
    records.scanned_at = scanned_at(db)?;
    records.leaving = scaling::leaving(db)?;
    Ok(records)
}

/// When clouds were last looked at.
pub(crate) fn scanned_at(db: &Connection) -> DbResult<Option<Timestamp>> {
    let scanned = meta_get(db, SCANNED_AT)?;
    Ok(scanned.and_then(|text| text.parse().ok()).map(Timestamp::from_millis))
}

/// One deployment.
pub(crate) fn one(db: &Connection, id: &DeploymentId) -> DbResult<Option<Deployment>> {
    let mut statement = db.prepare(&format!("{DEPLOYMENT} WHERE id = ?1"))?;
    let mut rows = statement.query(params![id.as_str()])?;
    rows.next()?.map(|row| deployment(db, row)).transpose()
}

/// The newest events, oldest first.
pub(super) fn events(db: &Connection, deployment: Option<&DeploymentId>, limit: u32) -> DbResult<Vec<Event>> {
    let sql = "SELECT at, deployment, instance, what, reason FROM lifecycle_events \
               WHERE ?1 IS NULL OR deployment = ?1 ORDER BY seq DESC LIMIT ?2";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![deployment.map(DeploymentId::as_str), limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(Event {
            at: read_time(row, 0)?,
            deployment: read_text(row, 1)?,
            instance: read_optional_text::<InstanceKey>(row, 2)?,
            what: row.get(3)?,
            reason: row.get(4)?,
        });
    }
    events.reverse();
    Ok(events)
}

fn deployment(db: &Connection, row: &Row<'_>) -> DbResult<Deployment> {
    let id: DeploymentId = read_text(row, 0)?;
    let has_service = row.get::<_, Option<i64>>(6)?.is_some();
    Ok(Deployment {
        name: row.get(1)?,
        request_key: row.get(2)?,
        asked: row.get(3)?,
        replicas: row.get(4)?,
        plan: plan(db, &id)?,
        spread: read_text(row, 11)?,
        wanted: read_text(row, 5)?,
        service: has_service.then(|| read_service(row, 6)).transpose()?,
        created_at: read_time(row, 8)?,
        expires_at: read_optional_time(row, 9)?,
        changed_at: read_time(row, 10)?,
        id,
    })
}

fn plan(db: &Connection, id: &DeploymentId) -> DbResult<Vec<Candidate>> {
    let sql = "SELECT provider, plan, region, spot, hourly, disk_gb, arch, stopped_hourly, egress_gb, egress_included_gb FROM deployment_plan WHERE deployment = ?1 ORDER BY step";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![id.as_str()])?;
    let mut plan = Vec::new();
    while let Some(row) = rows.next()? {
        plan.push(candidate(row, 0)?);
    }
    Ok(plan)
}

/// The offer in ten columns from `first`.
fn candidate(row: &Row<'_>, first: usize) -> DbResult<Candidate> {
    let price = |value: i64| {
        let value = u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not a price")));
        value.map(Micros::new)
    };
    let hourly = price(row.get(first + 4)?)?;
    let stopped: Option<i64> = row.get(first + 7)?;
    Ok(Candidate {
        provider: row.get(first)?,
        plan: row.get(first + 1)?,
        region: row.get(first + 2)?,
        spot: row.get(first + 3)?,
        disk_gb: row.get(first + 5)?,
        arch: read_text(row, first + 6)?,
        hourly,
        stopped_hourly: stopped.map_or(Ok(hourly), price)?,
        egress: egress_price(row, first + 8)?,
    })
}

fn record(row: &Row<'_>) -> DbResult<Record> {
    Ok(Record {
        key: read_text(row, 0)?,
        deployment: read_text(row, 1)?,
        number: row.get(2)?,
        candidate: candidate(row, 3)?,
        state: read_text(row, 13)?,
        attempt: row.get(14)?,
        created_at: read_time(row, 15)?,
        since: read_time(row, 16)?,
        called_at: read_optional_time(row, 17)?,
        provider_id: row.get(18)?,
        agent: row.get::<_, Option<[u8; 16]>>(19)?.map(AgentId::from_bytes),
        agent_attempt: row.get(20)?,
        reason: row.get(21)?,
        made_at: read_optional_time(row, 22)?,
        is_off: row.get(23)?,
        switched_at: read_optional_time(row, 24)?,
        deleted_at: read_optional_time(row, 25)?,
    })
}
