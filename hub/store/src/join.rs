//! Token use, agent, certificate and audit row: one transaction.

use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind, JoinCommit, JoinRefusal, ServiceGrant};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::convert::{read_agent_id, read_text, time};
use crate::error::DbResult;
use crate::{agents, audit, identities, lifecycle};

/// Makes an agent out of one use of a token, or says why not; the answer is audited either way.
pub(crate) fn join(db: &Connection, commit: JoinCommit) -> DbResult<Result<Agent, JoinRefusal>> {
    let (token, name, now) = (commit.token_id, commit.agent.name.clone(), commit.now);
    let (subject, with) = match &commit.identity {
        Some(identity) => (identity.to_string(), format!("identity {identity}")),
        None => (token.to_string(), format!("token {token}")),
    };
    db.execute_batch("SAVEPOINT admission")?;
    let admitted = admit(db, commit)?;
    let event = match &admitted {
        Ok(agent) => AuditEvent::new(AuditKind::JoinAccept, agent.id, format_args!("{with}, name {name}")),
        Err(refusal) => {
            // Gives the use of the token back where the refusal came after it.
            db.execute_batch("ROLLBACK TO admission")?;
            let detail = format_args!("{}: {refusal}; name {name}", refusal.code());
            AuditEvent::new(AuditKind::JoinRefuse, subject, detail)
        }
    };
    db.execute_batch("RELEASE admission")?;
    audit::append(db, event, now)?;
    Ok(admitted)
}

fn admit(db: &Connection, commit: JoinCommit) -> DbResult<Result<Agent, JoinRefusal>> {
    let granted = match &commit.identity {
        Some(identity) => {
            let admitted = identities::admit(db, identity, &commit.agent, commit.now)?;
            admitted.map(|services| Consumed { services, bound: None })
        }
        None => match consume(db, &commit)? {
            Some(consumed) => Ok(consumed),
            None => Err(diagnose(db, &commit)?),
        },
    };
    let Consumed { services, bound } = match granted {
        Ok(granted) => granted,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let agent = Agent { services, ..commit.agent };
    if let Some((instance, attempt)) = bound {
        // The token was made for one machine that the hub ordered; whoever else has it has stolen it.
        if instance != agent.name || !lifecycle::bind(db, &instance, agent.id, attempt)? {
            return Ok(Err(JoinRefusal::Bound));
        }
    }
    let sql = "SELECT id FROM agents WHERE wireguard_key = ?1";
    let holder = db
        .query_row(sql, params![agent.wireguard_key.as_bytes()], |row| Ok(read_agent_id(row, 0)))
        .optional()?;
    if let Some(holder) = holder.transpose()? {
        let text = format!("its wireguard key belongs to agent {holder}; remove that one or make a new key");
        return Ok(Err(JoinRefusal::BadRequest(text)));
    }
    agents::insert(db, &agent)?;
    let certificate = (commit.certificate_serial.as_slice(), agent.generation);
    agents::insert_certificate(db, agent.id, certificate, commit.not_after, commit.now)?;
    Ok(Ok(agent))
}

/// What a use of a token gives.
struct Consumed {
    services: ServiceGrant,
    /// The machine that it is for, and the call for that machine.
    bound: Option<(String, u32)>,
}

/// Takes one use of the token in one statement; gives its grant, or nothing where it may not be used.
fn consume(db: &Connection, commit: &JoinCommit) -> DbResult<Option<Consumed>> {
    let sql = "UPDATE join_tokens SET uses_left = uses_left - 1 \
               WHERE id = ?1 AND hash = ?2 AND uses_left > 0 AND expires_at > ?3 RETURNING services, instance, attempt";
    let values = params![commit.token_id.to_string(), commit.token_hash.as_bytes(), time(commit.now)];
    let consumed = |row: &Row<'_>| {
        let bound = row.get::<_, Option<String>>(1)?.zip(row.get::<_, Option<u32>>(2)?);
        Ok(read_text(row, 0).map(|services| Consumed { services, bound }))
    };
    db.query_row(sql, values, consumed).optional()?.transpose()
}

/// Finds out why [`consume`] changed nothing. Who lacks the secret learns nothing of the rest.
fn diagnose(db: &Connection, commit: &JoinCommit) -> DbResult<JoinRefusal> {
    let sql = "SELECT hash, uses_left FROM join_tokens WHERE id = ?1";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![commit.token_id.to_string()])?;
    let Some(row) = rows.next()? else { return Ok(JoinRefusal::Unknown) };
    let hash: [u8; 32] = row.get(0)?;
    let uses_left: u32 = row.get(1)?;
    Ok(if hash != *commit.token_hash.as_bytes() {
        JoinRefusal::WrongSecret
    } else if uses_left == 0 {
        JoinRefusal::Used
    } else {
        JoinRefusal::Expired
    })
}
