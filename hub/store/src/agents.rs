//! Agents, their certificates, and everything a hub reads at its start.

use blueprint_common_types::{AgentId, OverlayLease, Timestamp, WgPublicKey};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind, Loaded, RenewError};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::convert::{read_agent_id, read_text, read_time, time};
use crate::error::DbResult;
use crate::{audit, counters, targets};

/// An agent's wish for a fresh certificate.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) agent: AgentId,
    /// Generation of the certificate it came with.
    pub(crate) presented: u32,
    pub(crate) serial: Vec<u8>,
    pub(crate) not_after: Timestamp,
    pub(crate) now: Timestamp,
}

/// Everything at once.
pub(crate) fn load(db: &Connection) -> DbResult<Loaded> {
    let sql = "SELECT id, name, wireguard_key, v4, v6, joined_at, generation, token, services, agent_version \
               FROM agents ORDER BY joined_at, id";
    let mut loaded = Loaded { index: counters::index(db)?, ..Loaded::default() };
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        loaded.agents.push(read(row)?);
    }
    loaded.targets = targets::load(db)?;
    loaded.claims = targets::load_claims(db)?;
    let mut statement = db.prepare("SELECT agent, not_after FROM revoked_agents")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        loaded.revoked.insert(read_agent_id(row, 0)?, read_time(row, 1)?);
    }
    Ok(loaded)
}

pub(crate) fn insert(db: &Connection, agent: &Agent) -> DbResult<()> {
    let sql = "INSERT INTO agents \
               (id, name, wireguard_key, v4, v6, joined_at, generation, token, services, agent_version) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        agent.id.as_bytes(),
        agent.name,
        agent.wireguard_key.as_bytes(),
        agent.lease.v4.to_string(),
        agent.lease.v6.to_string(),
        time(agent.joined_at),
        agent.generation,
        agent.token.to_string(),
        agent.services.to_string(),
        agent.agent_version,
    ];
    db.execute(sql, values)?;
    Ok(())
}

/// Saves a certificate, given by serial number and generation, and forgets those that ended.
pub(crate) fn insert_certificate(
    db: &Connection,
    agent: AgentId,
    (serial, generation): (&[u8], u32),
    not_after: Timestamp,
    now: Timestamp,
) -> DbResult<()> {
    let sql = "DELETE FROM certificates WHERE agent = ?1 AND not_after <= ?2";
    db.execute(sql, params![agent.as_bytes(), time(now)])?;
    let sql = "INSERT INTO certificates (serial, agent, generation, issued_at, not_after) \
               VALUES (?1, ?2, ?3, ?4, ?5)";
    db.execute(sql, params![serial, agent.as_bytes(), generation, time(now), time(not_after)])?;
    Ok(())
}

/// Records a renewal, or says why not; the answer is audited either way.
///
/// The generation before the newest gets the newest once more: an agent whose answer was lost,
/// however often, is not locked out. A generation of the future is that of a hub whose database
/// was set back; its authority signed it, so it counts.
pub(crate) fn renew(db: &Connection, renewal: &Renewal) -> DbResult<Result<u32, RenewError>> {
    let Renewal { agent, presented, ref serial, not_after, now } = *renewal;
    let sql = "SELECT generation FROM agents WHERE id = ?1";
    let current: Option<u32> = db.query_row(sql, params![agent.as_bytes()], |row| row.get(0)).optional()?;
    let refusal = match current {
        None => Some(RenewError::UnknownAgent),
        Some(current) if presented < current.saturating_sub(1) => {
            Some(RenewError::Outdated { presented, current })
        }
        Some(_) => None,
    };
    if let Some(refusal) = refusal {
        audit::append(db, AuditEvent::new(AuditKind::CertificateRefuse, agent, &refusal), now)?;
        return Ok(Err(refusal));
    }
    let generation = presented.saturating_add(1);
    let sql = "UPDATE agents SET generation = max(generation, ?2) WHERE id = ?1";
    db.execute(sql, params![agent.as_bytes(), generation])?;
    insert_certificate(db, agent, (serial, generation), not_after, now)?;
    let detail = format_args!("generation {generation}, until {not_after}");
    audit::append(db, AuditEvent::new(AuditKind::CertificateRenew, agent, detail), now)?;
    Ok(Ok(generation))
}

/// Forgets an agent, but not that its certificates are void.
pub(crate) fn remove(db: &Connection, id: AgentId, now: Timestamp) -> DbResult<bool> {
    db.execute("DELETE FROM revoked_agents WHERE not_after <= ?1", params![time(now)])?;
    let sql = "INSERT INTO revoked_agents (agent, removed_at, not_after) \
               SELECT id, ?2, coalesce((SELECT max(not_after) FROM certificates WHERE agent = id), ?2) \
               FROM agents WHERE id = ?1 \
               ON CONFLICT (agent) DO UPDATE SET not_after = max(not_after, excluded.not_after)";
    db.execute(sql, params![id.as_bytes(), time(now)])?;
    let sql = "DELETE FROM agents WHERE id = ?1 RETURNING name";
    let name: Option<String> = db.query_row(sql, params![id.as_bytes()], |row| row.get(0)).optional()?;
    let Some(name) = name else { return Ok(false) };
    crate::qos::forget_agent(db, id)?;
    audit::append(db, AuditEvent::new(AuditKind::AgentRemove, id, format_args!("name {name}")), now)?;
    Ok(true)
}

fn read(row: &Row<'_>) -> DbResult<Agent> {
    Ok(Agent {
        id: read_agent_id(row, 0)?,
        name: row.get(1)?,
        wireguard_key: WgPublicKey::from_bytes(row.get(2)?),
        lease: OverlayLease { v4: read_text(row, 3)?, v6: read_text(row, 4)? },
        joined_at: read_time(row, 5)?,
        generation: row.get(6)?,
        token: read_text(row, 7)?,
        services: read_text(row, 8)?,
        agent_version: row.get(9)?,
    })
}
