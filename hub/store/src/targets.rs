//! Targets and claims.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use blueprint_common_types::{AgentId, Health, ServiceKey, TargetKey};
use blueprint_hub_registry_core::{Change, ChangeBody, TargetRecord, WHOLE};
use rusqlite::{Connection, Row, params};

use crate::convert::{read_agent_id, read_service, read_text, read_time, service, time};
use crate::counters;
use crate::error::{DbError, DbResult};

/// Follows the registry's changes. An agent that is gone takes its rows with it, so changes that
/// come late for it find nothing.
pub(crate) fn save(db: &Connection, changes: &[Change], index: u64) -> DbResult<()> {
    for change in changes {
        match &change.body {
            ChangeBody::Upsert(record) => upsert(db, record)?,
            ChangeBody::Remove(record) => remove(db, record.key)?,
            ChangeBody::Claim { service, agent } => claim(db, *service, *agent)?,
            ChangeBody::Unclaim { service, agent } => unclaim(db, *service, *agent)?,
        }
    }
    counters::save_index(db, index)
}

pub(crate) fn load(db: &Connection) -> DbResult<Vec<TargetRecord>> {
    let sql = "SELECT t.agent, t.blueprint, t.service, t.port, t.health, t.reason, t.expires_at, a.v4, a.name, \
               t.generation \
               FROM targets t JOIN agents a ON a.id = t.agent";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut targets = Vec::new();
    while let Some(row) = rows.next()? {
        targets.push(read(row)?);
    }
    Ok(targets)
}

pub(crate) fn load_claims(db: &Connection) -> DbResult<BTreeMap<ServiceKey, AgentId>> {
    let mut statement = db.prepare("SELECT blueprint, service, agent FROM claims")?;
    let mut rows = statement.query([])?;
    let mut claims = BTreeMap::new();
    while let Some(row) = rows.next()? {
        claims.insert(read_service(row, 0)?, read_agent_id(row, 2)?);
    }
    Ok(claims)
}

fn upsert(db: &Connection, record: &TargetRecord) -> DbResult<()> {
    let sql = "INSERT INTO targets (agent, blueprint, service, port, health, reason, expires_at, generation) \
               SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS (SELECT 1 FROM agents WHERE id = ?1) \
               ON CONFLICT (agent, blueprint, service, port) DO UPDATE SET \
               health = excluded.health, reason = excluded.reason, expires_at = excluded.expires_at, \
               generation = excluded.generation";
    let (blueprint, service) = service(record.key.service);
    let values = params![
        record.key.agent.as_bytes(),
        blueprint,
        service,
        record.key.port,
        record.health.to_string(),
        record.reason,
        time(record.expires_at),
        i64::try_from(record.generation).unwrap_or(0),
    ];
    db.execute(sql, values)?;
    Ok(())
}

fn remove(db: &Connection, key: TargetKey) -> DbResult<()> {
    let sql = "DELETE FROM targets WHERE agent = ?1 AND blueprint = ?2 AND service = ?3 AND port = ?4";
    let (blueprint, service) = service(key.service);
    db.execute(sql, params![key.agent.as_bytes(), blueprint, service, key.port])?;
    Ok(())
}

fn claim(db: &Connection, key: ServiceKey, agent: AgentId) -> DbResult<()> {
    let sql = "INSERT INTO claims (blueprint, service, agent) \
               SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM agents WHERE id = ?3) \
               ON CONFLICT (blueprint, service) DO UPDATE SET agent = excluded.agent";
    let (blueprint, service) = service(key);
    db.execute(sql, params![blueprint, service, agent.as_bytes()])?;
    Ok(())
}

fn unclaim(db: &Connection, key: ServiceKey, agent: AgentId) -> DbResult<()> {
    let sql = "DELETE FROM claims WHERE blueprint = ?1 AND service = ?2 AND agent = ?3";
    let (blueprint, service) = service(key);
    db.execute(sql, params![blueprint, service, agent.as_bytes()])?;
    Ok(())
}

fn read(row: &Row<'_>) -> DbResult<TargetRecord> {
    let port: u16 = row.get(3)?;
    let health: String = row.get(4)?;
    let health = [Health::Unknown, Health::Healthy, Health::Unhealthy]
        .into_iter()
        .find(|known| known.to_string() == health)
        .ok_or_else(|| DbError::Damaged(format!("{health:?} is not a health")))?;
    let v4: Ipv4Addr = read_text(row, 7)?;
    Ok(TargetRecord {
        key: TargetKey { service: read_service(row, 1)?, agent: read_agent_id(row, 0)?, port },
        health,
        reason: row.get(5)?,
        address: SocketAddr::from((v4, port)),
        expires_at: read_time(row, 6)?,
        agent_name: row.get(8)?,
        generation: u64::try_from(row.get::<_, i64>(9)?).unwrap_or(0),
        weight: WHOLE,
    })
}
