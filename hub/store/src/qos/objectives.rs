//! How much of the time services, machines and tunnels are to be up.

use blueprint_common_types::{AgentId, Timestamp};
use blueprint_hub_registry_core::qos::{Objective, ObjectiveOf, ObjectiveRecord};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, params};

use crate::audit;
use crate::convert::{read_agent_id, read_service, read_time, service, time};
use crate::error::{DbError, DbResult};

/// Every one that was set.
pub(super) fn list(db: &Connection) -> DbResult<Vec<ObjectiveRecord>> {
    let sql = "SELECT blueprint, service, thousandths, changed_at FROM qos_objectives";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let of = ObjectiveOf::Service(read_service(row, 0)?);
        records.push(ObjectiveRecord { of, objective: read(row.get(2)?)?, changed_at: read_time(row, 3)? });
    }
    let sql = "SELECT agent, part, thousandths, changed_at FROM qos_node_objectives";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let agent = read_agent_id(row, 0)?;
        let of = match row.get::<_, u8>(1)? {
            0 => ObjectiveOf::Node(agent),
            _ => ObjectiveOf::Tunnel(agent),
        };
        records.push(ObjectiveRecord { of, objective: read(row.get(2)?)?, changed_at: read_time(row, 3)? });
    }
    records.sort_by_key(|record| record.of);
    Ok(records)
}

fn read(thousandths: u32) -> DbResult<Objective> {
    Objective::new(thousandths).ok_or_else(|| DbError::Damaged("an objective is out of range".to_owned()))
}

/// Machine and part of what is not a service.
fn node(of: ObjectiveOf) -> Option<(AgentId, u8)> {
    match of {
        ObjectiveOf::Service(_) => None,
        ObjectiveOf::Node(agent) => Some((agent, 0)),
        ObjectiveOf::Tunnel(agent) => Some((agent, 1)),
    }
}

/// Sets one, or goes back to the default; false where there was none.
pub(super) fn set(
    db: &Connection,
    of: ObjectiveOf,
    objective: Option<Objective>,
    now: Timestamp,
) -> DbResult<bool> {
    let Some(objective) = objective else {
        if !remove(db, of)? {
            return Ok(false);
        }
        let detail = format_args!("{} % is the default", Objective::default());
        audit::append(db, AuditEvent::new(AuditKind::ObjectiveRemove, of, detail), now)?;
        return Ok(true);
    };
    let set = "thousandths = excluded.thousandths, changed_at = excluded.changed_at";
    match (of, node(of)) {
        (ObjectiveOf::Service(key), _) => {
            let (blueprint, number) = service(key);
            let sql = format!(
                "INSERT INTO qos_objectives (blueprint, service, thousandths, changed_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (blueprint, service) DO UPDATE SET {set}"
            );
            db.execute(&sql, params![blueprint, number, objective.thousandths(), time(now)])?;
        }
        (ObjectiveOf::Node(_) | ObjectiveOf::Tunnel(_), Some((agent, part))) => {
            let sql = format!(
                "INSERT INTO qos_node_objectives (agent, part, thousandths, changed_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (agent, part) DO UPDATE SET {set}"
            );
            db.execute(&sql, params![agent.as_bytes().to_vec(), part, objective.thousandths(), time(now)])?;
        }
        (ObjectiveOf::Node(_) | ObjectiveOf::Tunnel(_), None) => return Ok(false),
    }
    audit::append(db, AuditEvent::new(AuditKind::ObjectiveSet, of, format_args!("{objective} %")), now)?;
    Ok(true)
}

fn remove(db: &Connection, of: ObjectiveOf) -> DbResult<bool> {
    let gone = match (of, node(of)) {
        (ObjectiveOf::Service(key), _) => {
            let (blueprint, number) = service(key);
            let sql = "DELETE FROM qos_objectives WHERE blueprint = ?1 AND service = ?2";
            db.execute(sql, params![blueprint, number])?
        }
        (ObjectiveOf::Node(_) | ObjectiveOf::Tunnel(_), Some((agent, part))) => {
            let sql = "DELETE FROM qos_node_objectives WHERE agent = ?1 AND part = ?2";
            db.execute(sql, params![agent.as_bytes().to_vec(), part])?
        }
        (ObjectiveOf::Node(_) | ObjectiveOf::Tunnel(_), None) => 0,
    };
    Ok(gone > 0)
}

/// A machine is gone for good, and what it was to reach with it.
pub(crate) fn forget_agent(db: &Connection, agent: AgentId) -> DbResult<()> {
    let sql = "DELETE FROM qos_node_objectives WHERE agent = ?1";
    db.execute(sql, params![agent.as_bytes().to_vec()])?;
    Ok(())
}
