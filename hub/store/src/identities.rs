//! Machines of clouds that joined by their identity: who may, and that each does once.

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::{
    Agent, AuditEvent, AuditKind, CloudIdentity, IdentityRecord, JoinRefusal, ServiceGrant,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::convert::{read_agent_id, read_service, read_time, time};
use crate::error::DbResult;
use crate::{audit, lifecycle};

/// The machine of a deployment that an identity is of.
struct Ordered {
    key: String,
    provider_id: String,
    service: Option<ServiceKey>,
}

/// Gives what the machine may offer, and writes down that it joined; or says why it may not.
pub(crate) fn admit(
    db: &Connection,
    identity: &CloudIdentity,
    agent: &Agent,
    now: Timestamp,
) -> DbResult<Result<ServiceGrant, JoinRefusal>> {
    let of = params![identity.kind.name(), identity.account, identity.instance];
    let sql = "SELECT agent FROM cloud_identities WHERE cloud = ?1 AND account = ?2 AND instance = ?3";
    let before = db.query_row(sql, of, |row| Ok(read_agent_id(row, 0))).optional()?;
    if let Some(before) = before.transpose()? {
        return Ok(Err(JoinRefusal::IdentityUsed(before)));
    }
    let services = match (ordered(db, identity)?, &identity.unordered) {
        (Some(machine), _) => {
            if machine.key != agent.name
                || !lifecycle::bind_listed(db, &machine.key, agent.id, &machine.provider_id)?
            {
                return Ok(Err(JoinRefusal::NotOrdered));
            }
            // Its token is in what the cloud shows to every program of the machine.
            db.execute("UPDATE join_tokens SET uses_left = 0 WHERE instance = ?1", params![machine.key])?;
            ServiceGrant::Only(machine.service.into_iter().collect())
        }
        // A machine that the hub ordered is no stranger, also where its cloud's name is not known yet, or never in what it shows.
        (None, Some(services)) if !is_ordered_name(db, identity, &agent.name)? => services.clone(),
        (None, _) => return Ok(Err(JoinRefusal::NotOrdered)),
    };
    let sql = "INSERT INTO cloud_identities (cloud, account, instance, agent, joined_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let (cloud, agent) = (identity.kind.name(), agent.id.as_bytes());
    db.execute(sql, params![cloud, identity.account, identity.instance, agent, time(now)])?;
    Ok(Ok(services))
}

/// The machine that this hub ordered of the provider, by what the provider calls it.
fn ordered(db: &Connection, identity: &CloudIdentity) -> DbResult<Option<Ordered>> {
    let sql = "SELECT instances.key, instances.provider_id, deployments.blueprint, deployments.service \
               FROM instances JOIN deployments ON deployments.id = instances.deployment \
               WHERE instances.provider = ?1 AND instances.provider_id = ?2";
    let mut statement = db.prepare(sql)?;
    for id in &identity.provider_ids {
        let mut rows = statement.query(params![identity.kind.name(), id])?;
        if let Some(row) = rows.next()? {
            let has_service = row.get::<_, Option<i64>>(2)?.is_some();
            let service = if has_service { Some(read_service(row, 2)?) } else { None };
            return Ok(Some(Ordered { key: row.get(0)?, provider_id: row.get(1)?, service }));
        }
    }
    Ok(None)
}

/// True where this hub ordered a machine of this name from that provider, whatever became of it.
fn is_ordered_name(db: &Connection, identity: &CloudIdentity, name: &str) -> DbResult<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM instances WHERE provider = ?1 AND key = ?2)";
    Ok(db.query_row(sql, params![identity.kind.name(), name], |row| row.get(0))?)
}

pub(crate) fn list(db: &Connection) -> DbResult<Vec<IdentityRecord>> {
    let sql = "SELECT cloud, account, instance, agent, joined_at FROM cloud_identities \
               ORDER BY joined_at, cloud, account, instance";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let agent: AgentId = read_agent_id(row, 3)?;
        records.push(IdentityRecord {
            cloud: row.get(0)?,
            account: row.get(1)?,
            instance: row.get(2)?,
            agent,
            joined_at: read_time(row, 4)?,
        });
    }
    Ok(records)
}

/// Lets a machine join once more; false where it never did.
pub(crate) fn forget(
    db: &Connection,
    [cloud, account, instance]: [&String; 3],
    now: Timestamp,
) -> DbResult<bool> {
    let sql = "DELETE FROM cloud_identities WHERE cloud = ?1 AND account = ?2 AND instance = ?3";
    let gone = db.execute(sql, params![cloud, account, instance])? > 0;
    if gone {
        let subject = format_args!("{cloud}/{account}/{instance}");
        audit::append(db, AuditEvent::new(AuditKind::IdentityForget, subject, ""), now)?;
    }
    Ok(gone)
}
