//! Terms of services, machines that leave, and what scaling did.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_provision_core::cost::alert::Held;
use blueprint_hub_provision_core::cost::{Limits, OverLimit, committed, next_offers};
use blueprint_hub_provision_core::lifecycle::{Deployment, RecordState, Records, RecordsResult, Wanted};
use blueprint_hub_provision_core::scaling::{
    DrainMark, Leaving, MAX_SCALE_EVENTS, Phase, ResizeError, ScaleEvent, ScaleStore, Scaling, Terms,
};
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, Row, params};

use crate::convert::{read_optional_time, read_service, read_text, read_time, service, time};
use crate::error::DbResult;
use crate::lifecycle::{self, told};
use crate::{SqliteStore, audit, costs};

impl ScaleStore for SqliteStore {
    fn scalings(&self) -> BoxFuture<'_, RecordsResult<Vec<Scaling>>> {
        const ACTION: &str = "read the terms of services";
        Box::pin(async { told(ACTION, self.queue.call(ACTION, list).await) })
    }

    fn set_scaling(
        &self,
        service: ServiceKey,
        deployment: DeploymentId,
        terms: Terms,
        before: Option<Scaling>,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Option<Scaling>>> {
        const ACTION: &str = "store the terms of a service";
        Box::pin(async move {
            let work = move |db: &Connection| set(db, service, deployment, terms, before.as_ref(), now);
            told(ACTION, self.queue.call(ACTION, work).await)
        })
    }

    fn remove_scaling(&self, service: ServiceKey, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        const ACTION: &str = "forget the terms of a service";
        Box::pin(
            async move { told(ACTION, self.queue.call(ACTION, move |db| remove(db, service, now)).await) },
        )
    }

    fn set_phase(
        &self,
        scaling: Scaling,
        phase: Phase,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>> {
        const ACTION: &str = "note how it stands with a payment";
        Box::pin(async move {
            let work = move |db: &Connection| {
                let still = is_still(db, &scaling)?;
                if still {
                    turn(db, scaling.service, phase, &reason, now)?;
                }
                Ok(still)
            };
            told(ACTION, self.queue.call(ACTION, work).await)
        })
    }

    fn end(&self, scaling: Scaling, reason: String, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        const ACTION: &str = "end a deployment that is not paid for";
        Box::pin(async move {
            let work = move |db: &Connection| {
                let still = is_still(db, &scaling)?;
                if still {
                    lifecycle::set_wanted(db, &scaling.deployment, Wanted::Gone, &reason, now)?;
                    turn(db, scaling.service, Phase::Ended, &reason, now)?;
                }
                Ok(still)
            };
            told(ACTION, self.queue.call(ACTION, work).await)
        })
    }

    fn resize(
        &self,
        scaling: Scaling,
        to: u32,
        released: BTreeSet<InstanceKey>,
        reason: String,
        limits: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, ResizeError>> {
        const ACTION: &str = "store how many machines a deployment has";
        Box::pin(async move {
            let work = move |db: &Connection| resize(db, &scaling, to, &released, &reason, limits, now);
            Ok(told(ACTION, self.queue.call(ACTION, work).await)??)
        })
    }

    fn replace(
        &self,
        scaling: Scaling,
        key: InstanceKey,
        reason: String,
        limits: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, ResizeError>> {
        const ACTION: &str = "give a replica up";
        Box::pin(async move {
            let work = move |db: &Connection| replace(db, &scaling, &key, &reason, limits, now);
            Ok(told(ACTION, self.queue.call(ACTION, work).await)??)
        })
    }

    fn mark_leaving(
        &self,
        scaling: Scaling,
        leave: BTreeSet<InstanceKey>,
        stay: BTreeSet<InstanceKey>,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>> {
        const ACTION: &str = "store which machines leave";
        Box::pin(async move {
            let work = move |db: &Connection| mark(db, &scaling, &leave, &stay, &reason, now);
            told(ACTION, self.queue.call(ACTION, work).await)
        })
    }

    fn note_held(
        &self,
        service: ServiceKey,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<()>> {
        const ACTION: &str = "note what could not be scaled";
        Box::pin(async move {
            let work = move |db: &Connection| {
                let replicas = size_of(db, service)?;
                event(db, service, "held", replicas, &reason, now)
            };
            told(ACTION, self.queue.call(ACTION, work).await)
        })
    }

    fn scale_events(&self, service: ServiceKey, limit: u32) -> BoxFuture<'_, RecordsResult<Vec<ScaleEvent>>> {
        const ACTION: &str = "read what scaling did";
        Box::pin(
            async move { told(ACTION, self.queue.call(ACTION, move |db| events(db, service, limit)).await) },
        )
    }
}

/// What keeps a deployment from growing.
enum Refused {
    OverLimit(OverLimit),
    Held(Held),
}

impl From<Refused> for ResizeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::OverLimit(over) => Self::OverLimit(over),
            Refused::Held(held) => Self::Held(held),
        }
    }
}

const SELECT: &str = "SELECT blueprint, service, deployment, tier, min_replicas, max_replicas, target_cpu, target_rate, \
                      paid_until, phase, phase_since, changed_at FROM service_scaling";

fn list(db: &Connection) -> DbResult<Vec<Scaling>> {
    let mut statement = db.prepare(SELECT)?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    all.sort_by_key(|scaling: &Scaling| scaling.service);
    Ok(all)
}

fn one(db: &Connection, key: ServiceKey) -> DbResult<Option<Scaling>> {
    let (blueprint, number) = service(key);
    let mut statement = db.prepare(&format!("{SELECT} WHERE blueprint = ?1 AND service = ?2"))?;
    let mut rows = statement.query(params![blueprint, number])?;
    rows.next()?.map(read).transpose()
}

fn read(row: &Row<'_>) -> DbResult<Scaling> {
    Ok(Scaling {
        service: read_service(row, 0)?,
        deployment: read_text(row, 2)?,
        terms: Terms {
            tier: read_text(row, 3)?,
            min: row.get(4)?,
            max: row.get(5)?,
            target_cpu: row.get(6)?,
            target_rate: row.get(7)?,
            paid_until: read_optional_time(row, 8)?,
        },
        phase: read_text(row, 9)?,
        phase_since: read_time(row, 10)?,
        changed_at: read_time(row, 11)?,
    })
}

/// Whether what a step was decided by is what is stored.
fn is_still(db: &Connection, scaling: &Scaling) -> DbResult<bool> {
    Ok(one(db, scaling.service)?.as_ref() == Some(scaling))
}

fn set(
    db: &Connection,
    key: ServiceKey,
    deployment: DeploymentId,
    terms: Terms,
    before: Option<&Scaling>,
    now: Timestamp,
) -> DbResult<Option<Scaling>> {
    let stored = one(db, key)?;
    // Another phase is no other agreement, but for the one that there is no way back from.
    let agreed = |it: &Scaling| (it.deployment.clone(), it.changed_at, it.phase == Phase::Ended);
    if stored.as_ref().map(agreed) != before.map(agreed) {
        return Ok(None);
    }
    let changed_at = stored.as_ref().map_or(now, |it| now.max(it.changed_at.plus(Duration::from_millis(1))));
    // One that ended has another deployment now, or its owner would have been told so.
    let before = stored.filter(|known| known.phase != Phase::Ended);
    let (phase, phase_since) = before.map_or((Phase::Paid, now), |known| (known.phase, known.phase_since));
    let scaling = Scaling { service: key, deployment, terms, phase, phase_since, changed_at };
    let (blueprint, number) = service(key);
    let Terms { tier, min, max, target_cpu, target_rate, paid_until } = &scaling.terms;
    let sql = "INSERT OR REPLACE INTO service_scaling (blueprint, service, deployment, tier, min_replicas, max_replicas, \
                target_cpu, target_rate, paid_until, phase, phase_since, changed_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let values = params![
        blueprint,
        number,
        scaling.deployment.as_str(),
        tier.label(),
        min,
        max,
        target_cpu,
        target_rate,
        paid_until.map(time),
        phase.label(),
        time(phase_since),
        time(changed_at),
    ];
    db.execute(sql, values)?;
    let until = paid_until.map_or_else(|| "without end".to_owned(), |until| format!("until {until}"));
    let rate = target_rate.map_or_else(String::new, |rate| format!(", {rate} requests a second each"));
    let text =
        format!("{tier}, {min} to {max} replicas, {target_cpu} % of their processors{rate}, paid {until}");
    event(db, key, "set", size_of(db, key)?, &text, now)?;
    audit::append(db, AuditEvent::new(AuditKind::ScalingSet, key, text), now)?;
    Ok(Some(scaling))
}

fn remove(db: &Connection, key: ServiceKey, now: Timestamp) -> DbResult<bool> {
    let (blueprint, number) = service(key);
    let replicas = size_of(db, key)?;
    // Nobody would ever end what drains for a service without terms.
    let sql = "DELETE FROM leaving_instances WHERE released = 0 AND key IN (SELECT instances.key FROM instances \
                JOIN service_scaling ON service_scaling.deployment = instances.deployment \
                WHERE service_scaling.blueprint = ?1 AND service_scaling.service = ?2)";
    db.execute(sql, params![blueprint, number])?;
    let sql = "DELETE FROM service_scaling WHERE blueprint = ?1 AND service = ?2";
    if db.execute(sql, params![blueprint, number])? == 0 {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM workloads WHERE blueprint = ?1 AND service = ?2)";
    let is_run: bool = db.query_row(sql, params![blueprint, number], |row| row.get(0))?;
    let text = if is_run {
        "by the operator: its machines stay, and what the hub runs of it drains on all of them but one"
    } else {
        "by the operator: its machines stay"
    };
    event(db, key, "remove", replicas, text, now)?;
    audit::append(db, AuditEvent::new(AuditKind::ScalingRemove, key, text), now)?;
    Ok(true)
}

fn turn(db: &Connection, key: ServiceKey, phase: Phase, reason: &str, now: Timestamp) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let sql = "UPDATE service_scaling SET phase = ?3, phase_since = ?4 WHERE blueprint = ?1 AND service = ?2";
    if db.execute(sql, params![blueprint, number, phase.label(), time(now)])? == 0 {
        return Ok(());
    }
    let text = format!("{phase}: {reason}");
    event(db, key, "phase", size_of(db, key)?, &text, now)?;
    audit::append(db, AuditEvent::new(AuditKind::ScalingAct, key, text), now)
}

fn resize(
    db: &Connection,
    scaling: &Scaling,
    to: u32,
    released: &BTreeSet<InstanceKey>,
    reason: &str,
    limits: Limits,
    now: Timestamp,
) -> DbResult<Result<bool, Refused>> {
    if !is_still(db, scaling)? {
        return Ok(Ok(false));
    }
    let Some(before) = lifecycle::find(db, &scaling.deployment)? else { return Ok(Ok(false)) };
    if to > before.replicas
        && let Some(refused) = refusal(db, &before, to - before.replicas, limits, now)?
    {
        return Ok(Err(refused));
    }
    let sql = "INSERT OR REPLACE INTO deployment_sizes (deployment, replicas) VALUES (?1, ?2)";
    db.execute(sql, params![scaling.deployment.as_str(), to])?;
    for key in released {
        let sql = "UPDATE leaving_instances SET released = 1 WHERE key = ?1";
        db.execute(sql, params![key.as_str()])?;
    }
    let what = if to > before.replicas { "grow" } else { "shrink" };
    event(db, scaling.service, what, to, reason, now)?;
    lifecycle::event(db, now, scaling.deployment.as_str(), None, &format!("{to} replicas"), reason)?;
    let detail = format_args!("{} to {to} replicas: {reason}", before.replicas);
    audit::append(db, AuditEvent::new(AuditKind::ScalingAct, scaling.service, detail), now)?;
    Ok(Ok(true))
}

fn replace(
    db: &Connection,
    scaling: &Scaling,
    key: &InstanceKey,
    reason: &str,
    limits: Limits,
    now: Timestamp,
) -> DbResult<Result<bool, Refused>> {
    let deployment = lifecycle::find(db, &scaling.deployment)?;
    let runs = deployment.as_ref().filter(|it| it.wanted == Wanted::Running);
    let Some(deployment) = runs.filter(|_| scaling.phase == Phase::Paid) else { return Ok(Ok(false)) };
    if !is_still(db, scaling)? {
        return Ok(Ok(false));
    }
    if let Some(refused) = refusal_instead(db, deployment, key, limits, now)? {
        return Ok(Err(refused));
    }
    // One that leaves already goes its own way, and one that is deleted is gone.
    let sql = "INSERT OR IGNORE INTO leaving_instances (key, since, released, given_up) \
               SELECT key, ?3, 1, 1 FROM instances WHERE key = ?1 AND deployment = ?2 AND state = ?4";
    let values = params![key.as_str(), scaling.deployment.as_str(), time(now), RecordState::Active.label()];
    if db.execute(sql, values)? == 0 {
        return Ok(Ok(false));
    }
    event(db, scaling.service, "replace", deployment.replicas, reason, now)?;
    lifecycle::event(db, now, scaling.deployment.as_str(), Some(key.as_str()), "given up", reason)?;
    let detail = format_args!("replace {key}: {reason}");
    audit::append(db, AuditEvent::new(AuditKind::ScalingAct, scaling.service, detail), now)?;
    Ok(Ok(true))
}

/// What keeps `more` machines from being wanted.
fn refusal(
    db: &Connection,
    before: &Deployment,
    more: u32,
    limits: Limits,
    now: Timestamp,
) -> DbResult<Option<Refused>> {
    refusal_beside(db, &lifecycle::load(db)?, before, more, limits, now)
}

/// What keeps another machine from taking the place of `key`, which is counted out.
fn refusal_instead(
    db: &Connection,
    deployment: &Deployment,
    key: &InstanceKey,
    limits: Limits,
    now: Timestamp,
) -> DbResult<Option<Refused>> {
    let mut records = lifecycle::load(db)?;
    // One that is not there is not given up either.
    if records.instances.remove(key).is_none() {
        return Ok(None);
    }
    let without = Deployment { replicas: deployment.replicas.saturating_sub(1), ..deployment.clone() };
    records.deployments.insert(without.id.clone(), without.clone());
    refusal_beside(db, &records, &without, 1, limits, now)
}

/// What keeps `more` machines from being wanted beside those of `records`.
fn refusal_beside(
    db: &Connection,
    records: &Records,
    before: &Deployment,
    more: u32,
    limits: Limits,
    now: Timestamp,
) -> DbResult<Option<Refused>> {
    let recent = lifecycle::recent_spans(db, now)?;
    // Where machines are spread, each of those that come may be at another provider.
    let next = next_offers(records, before, more);
    let providers: BTreeSet<&str> = next.into_iter().map(|offer| offer.provider.as_str()).collect();
    for provider in providers {
        if let Some(held) = costs::holds(db, (&before.id, provider), &limits, &recent, now)? {
            return Ok(Some(Refused::Held(held)));
        }
    }
    let used = committed(records, &recent, &limits, now);
    let asked = limits.asked_more(records, before, more, now);
    Ok(asked.and_then(|asked| limits.check(used, asked)).err().map(Refused::OverLimit))
}

fn mark(
    db: &Connection,
    scaling: &Scaling,
    leave: &BTreeSet<InstanceKey>,
    stay: &BTreeSet<InstanceKey>,
    reason: &str,
    now: Timestamp,
) -> DbResult<bool> {
    if !is_still(db, scaling)? {
        return Ok(false);
    }
    for key in leave {
        // One that was forgotten meanwhile has nothing to leave.
        let sql = "INSERT OR IGNORE INTO leaving_instances (key, since, released) \
                   SELECT key, ?2, 0 FROM instances WHERE key = ?1";
        db.execute(sql, params![key.as_str(), time(now)])?;
    }
    for key in stay {
        db.execute("DELETE FROM leaving_instances WHERE key = ?1 AND released = 0", params![key.as_str()])?;
    }
    let keys: Vec<_> = leave.iter().chain(stay).map(InstanceKey::as_str).collect();
    let what = if leave.is_empty() { "keep" } else { "drain" };
    let text = format!("{}: {reason}", keys.join(", "));
    event(db, scaling.service, what, size_of(db, scaling.service)?, &text, now)?;
    audit::append(
        db,
        AuditEvent::new(AuditKind::ScalingAct, scaling.service, format!("{what} {text}")),
        now,
    )?;
    Ok(true)
}

/// Machines that leave.
pub(crate) fn leaving(db: &Connection) -> DbResult<Leaving> {
    let mut statement = db.prepare("SELECT key, since, released, given_up FROM leaving_instances")?;
    let mut rows = statement.query([])?;
    let mut leaving = Leaving::new();
    while let Some(row) = rows.next()? {
        let mark =
            DrainMark { since: read_time(row, 1)?, is_released: row.get(2)?, is_given_up: row.get(3)? };
        leaving.insert(read_text(row, 0)?, mark);
    }
    Ok(leaving)
}

/// Replicas that are wanted of a service with terms; 0 where it has none.
fn size_of(db: &Connection, key: ServiceKey) -> DbResult<u32> {
    let Some(scaling) = one(db, key)? else { return Ok(0) };
    Ok(lifecycle::find(db, &scaling.deployment)?.map_or(0, |deployment| deployment.replicas))
}

fn event(
    db: &Connection,
    key: ServiceKey,
    what: &str,
    replicas: u32,
    reason: &str,
    now: Timestamp,
) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let reason: String = reason.chars().take(300).collect();
    let sql = "INSERT INTO scale_events (at, blueprint, service, what, replicas, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.execute(sql, params![time(now), blueprint, number, what, replicas, reason])?;
    let sql = "DELETE FROM scale_events WHERE blueprint = ?1 AND service = ?2 AND id <= (SELECT id FROM scale_events \
                WHERE blueprint = ?1 AND service = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)";
    db.execute(sql, params![blueprint, number, MAX_SCALE_EVENTS])?;
    Ok(())
}

fn events(db: &Connection, key: ServiceKey, limit: u32) -> DbResult<Vec<ScaleEvent>> {
    let (blueprint, number) = service(key);
    let sql = "SELECT at, what, replicas, reason FROM scale_events WHERE blueprint = ?1 AND service = ?2 \
               ORDER BY id DESC LIMIT ?3";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![blueprint, number, limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(ScaleEvent {
            at: read_time(row, 0)?,
            service: key,
            what: row.get(1)?,
            replicas: row.get(2)?,
            reason: row.get(3)?,
        });
    }
    events.reverse();
    Ok(events)
}
