//! Deployments and their machines.

mod read;
mod spans;

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{AgentId, Micros, Timestamp};
use blueprint_hub_provision_core::cost::alert::Held;
use blueprint_hub_provision_core::cost::{Limits, OverLimit, Span, committed};
use blueprint_hub_provision_core::lifecycle::{
    Begun, BoundToken, CreateDeploymentError, Deployment, Event, LifecycleStore, Record, RecordState,
    Records, RecordsError, RecordsResult, Wanted,
};
use blueprint_hub_provision_core::{Candidate, DeploymentId, InstanceKey};
use blueprint_hub_registry_core::{AuditEvent, AuditKind, JoinTokenRecord, ServiceGrant, StoreResult};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params};

use crate::convert::{service, time};
use crate::costs::{self, egress_columns};
use crate::counters::{meta_get, meta_set};
use crate::error::DbResult;
use crate::{SqliteStore, audit, tokens};

pub(crate) use read::{load, one as find, scanned_at};

/// How long a deployment that ended is remembered.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long a machine that ended is remembered while its deployment goes on, and how many of them at most; what ended
/// within the last day is, however many these are, for the pauses between replacements are counted from it.
const ENDED_REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
const ENDED_AT_MOST: u32 = 500;
const ENDED_LATELY: Duration = Duration::from_secs(24 * 3600);

/// Steps of one deployment that are remembered at most.
const EVENTS_AT_MOST: u32 = 10_000;

/// How long it is remembered what a machine cost: thirteen months.
const SPANS_REMEMBERED: Duration = Duration::from_secs(400 * 24 * 3600);

const HOUR_MS: u64 = 3600 * 1000;

/// When clouds were last looked at.
const SCANNED_AT: &str = "provision.scanned_at";

/// Puts a failure of the store into the words of the lifecycle.
pub(crate) fn told<T>(action: &'static str, result: StoreResult<T>) -> RecordsResult<T> {
    result.map_err(|source| RecordsError { action, source: Box::new(source) })
}

impl LifecycleStore for SqliteStore {
    fn load_lifecycle(&self) -> BoxFuture<'_, RecordsResult<Records>> {
        const ACTION: &str = "load the deployments";
        Box::pin(async { told(ACTION, self.queue.call(ACTION, load).await) })
    }

    fn create_deployment(
        &self,
        deployment: Deployment,
        limits: Limits,
    ) -> BoxFuture<'_, Result<(Deployment, bool), CreateDeploymentError>> {
        const ACTION: &str = "store a deployment";
        Box::pin(async move {
            let asked = deployment.asked.clone();
            let stored = self.queue.call(ACTION, move |db| create(db, deployment, limits)).await;
            let (stored, is_new) = told(ACTION, stored)??;
            if stored.asked != asked {
                return Err(CreateDeploymentError::Mismatch { id: stored.id, asked: stored.asked });
            }
            Ok((stored, is_new))
        })
    }

    fn set_wanted(
        &self,
        id: DeploymentId,
        wanted: Wanted,
        why: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Option<Deployment>>> {
        const ACTION: &str = "store what is wanted of a deployment";
        Box::pin(async move {
            let changed = self.queue.call(ACTION, move |db| set_wanted(db, &id, wanted, &why, now)).await;
            told(ACTION, changed)
        })
    }

    fn save_instance(&self, record: Record) -> BoxFuture<'_, RecordsResult<()>> {
        const ACTION: &str = "store a machine";
        Box::pin(async move { told(ACTION, self.queue.call(ACTION, move |db| save(db, &record)).await) })
    }

    fn begin_call(
        &self,
        record: Record,
        token: BoundToken,
        limits: Limits,
    ) -> BoxFuture<'_, RecordsResult<Begun>> {
        const ACTION: &str = "store a machine and its join token";
        Box::pin(async move {
            told(ACTION, self.queue.call(ACTION, move |db| begin(db, &record, &token, limits)).await)
        })
    }

    fn note_removal(
        &self,
        key: InstanceKey,
        detail: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<()>> {
        const ACTION: &str = "note the removal of a machine";
        Box::pin(async move {
            let event = AuditEvent::new(AuditKind::InstanceDelete, key, detail);
            told(ACTION, self.queue.call(ACTION, move |db| audit::append(db, event, now)).await)
        })
    }

    fn note_scan(&self, now: Timestamp) -> BoxFuture<'_, RecordsResult<()>> {
        const ACTION: &str = "note a look at the clouds";
        Box::pin(async move { told(ACTION, self.queue.call(ACTION, move |db| note_scan(db, now)).await) })
    }

    fn spans(&self, since: Timestamp) -> BoxFuture<'_, RecordsResult<Vec<Span>>> {
        const ACTION: &str = "read what machines cost";
        Box::pin(async move { told(ACTION, self.queue.call(ACTION, move |db| spans::load(db, since)).await) })
    }

    fn lifecycle_events(
        &self,
        deployment: Option<DeploymentId>,
        limit: u32,
    ) -> BoxFuture<'_, RecordsResult<Vec<Event>>> {
        const ACTION: &str = "read the history of deployments";
        Box::pin(async move {
            told(
                ACTION,
                self.queue.call(ACTION, move |db| read::events(db, deployment.as_ref(), limit)).await,
            )
        })
    }
}

/// Why a deployment is not stored.
enum Refused {
    OverLimit(OverLimit),
    Held(Held),
}

impl From<Refused> for CreateDeploymentError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::OverLimit(over) => Self::OverLimit(over),
            Refused::Held(held) => Self::Held(held),
        }
    }
}

/// The deployment and whether it is new, or what stands in its way.
type Created = Result<(Deployment, bool), Refused>;

/// Every span that is kept.
pub(crate) fn all_spans(db: &Connection) -> DbResult<Vec<Span>> {
    spans::load(db, Timestamp::default())
}

/// The spans of the calendar month of `now`, and a few before.
pub(crate) fn recent_spans(db: &Connection, now: Timestamp) -> DbResult<Vec<Span>> {
    spans::load(db, month_ago(now))
}

/// Ends a deployment; false where there is none of this id, or it is gone already.
pub(crate) fn end(db: &Connection, id: &DeploymentId, why: &str, now: Timestamp) -> DbResult<bool> {
    let is_new = find(db, id)?.is_some_and(|known| known.wanted != Wanted::Gone);
    if is_new {
        set_wanted(db, id, Wanted::Gone, why, now)?;
    }
    Ok(is_new)
}

fn create(db: &Connection, deployment: Deployment, limits: Limits) -> DbResult<Created> {
    let sql = "SELECT id FROM deployments WHERE request_key = ?1";
    let known =
        db.query_row(sql, params![deployment.request_key], |row| row.get::<_, String>(0)).optional()?;
    let known = known.and_then(|id| id.parse().ok()).map(|id| find(db, &id)).transpose()?.flatten();
    if let Some(known) = known {
        return Ok(Ok((known, false)));
    }
    let now = deployment.created_at;
    let recent = recent_spans(db, now)?;
    // Where machines are spread, each may be at another provider.
    let layout = deployment.spread.layout(&deployment.plan, deployment.replicas.max(1));
    let providers: BTreeSet<&str> = layout.into_iter().map(|offer| offer.provider.as_str()).collect();
    for provider in providers {
        if let Some(held) = costs::holds(db, (&deployment.id, provider), &limits, &recent, now)? {
            return Ok(Err(Refused::Held(held)));
        }
    }
    let used = committed(&load(db)?, &recent, &limits, now);
    if let Err(over) = limits.check(used, limits.asked(&deployment, now)) {
        return Ok(Err(Refused::OverLimit(over)));
    }
    let sql = "INSERT INTO deployments \
               (id, name, request_key, asked, replicas, wanted, blueprint, service, created_at, expires_at, changed_at, \
                spread) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let key = deployment.service.map(service);
    let values = params![
        deployment.id.as_str(),
        deployment.name,
        deployment.request_key,
        deployment.asked,
        deployment.replicas,
        deployment.wanted.label(),
        key.map(|(blueprint, _)| blueprint),
        key.map(|(_, service)| service),
        time(deployment.created_at),
        deployment.expires_at.map(time),
        time(deployment.changed_at),
        deployment.spread.label(),
    ];
    db.execute(sql, values)?;
    for (candidate, step) in deployment.plan.iter().zip(0i64..) {
        let Candidate { provider, plan, region, spot, disk_gb, arch, hourly, stopped_hourly, egress } =
            candidate;
        let sql = "INSERT INTO deployment_plan (deployment, step, provider, plan, region, spot, hourly, disk_gb, arch, stopped_hourly, \
                    egress_gb, egress_included_gb) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let id = deployment.id.as_str();
        let (hourly, stopped, arch) = (micros(*hourly), micros(*stopped_hourly), arch.as_str());
        let (gb, included) = egress_columns(*egress);
        let values =
            params![id, step, provider, plan, region, spot, hourly, disk_gb, arch, stopped, gb, included];
        db.execute(sql, values)?;
    }
    let end = deployment.expires_at.map_or_else(|| "without end".to_owned(), |end| format!("until {end}"));
    let detail = format!("{:?}, {}, {end}", deployment.name, deployment.asked);
    audit::append(db, AuditEvent::new(AuditKind::DeploymentCreate, &deployment.id, detail), now)?;
    event(db, now, deployment.id.as_str(), None, deployment.wanted.label(), "deployed")?;
    Ok(Ok((deployment, true)))
}

/// Long enough before `now` for every span of its calendar month.
fn month_ago(now: Timestamp) -> Timestamp {
    let epoch = Timestamp::default();
    epoch.plus(now.since(epoch.plus(Duration::from_secs(32 * 24 * 3600))))
}

pub(crate) fn set_wanted(
    db: &Connection,
    id: &DeploymentId,
    wanted: Wanted,
    why: &str,
    now: Timestamp,
) -> DbResult<Option<Deployment>> {
    let Some(before) = find(db, id)? else { return Ok(None) };
    if before.wanted == wanted || before.wanted == Wanted::Gone {
        return Ok(Some(before));
    }
    let sql = "UPDATE deployments SET wanted = ?2, changed_at = ?3 WHERE id = ?1";
    db.execute(sql, params![id.as_str(), wanted.label(), time(now)])?;
    let kind = match wanted {
        Wanted::Gone => AuditKind::DeploymentTerminate,
        Wanted::Running | Wanted::Stopped => AuditKind::DeploymentSet,
    };
    audit::append(db, AuditEvent::new(kind, id, format_args!("{:?}: {why}", before.name)), now)?;
    event(db, now, id.as_str(), None, wanted.label(), why)?;
    Ok(Some(Deployment { wanted, changed_at: now, ..before }))
}

fn save(db: &Connection, record: &Record) -> DbResult<()> {
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

/// A price as a column.
fn micros(amount: Micros) -> i64 {
    i64::try_from(amount.get()).unwrap_or(i64::MAX)
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

fn begin(db: &Connection, record: &Record, token: &BoundToken, limits: Limits) -> DbResult<Begun> {
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

fn note_scan(db: &Connection, now: Timestamp) -> DbResult<()> {
    let last: Option<u64> = meta_get(db, SCANNED_AT)?.and_then(|text| text.parse().ok());
    meta_set(db, SCANNED_AT, &now.as_millis().to_string())?;
    // Once an hour is enough.
    if last.map(|last| last / HOUR_MS) == Some(now.as_millis() / HOUR_MS) {
        return Ok(());
    }
    forget(db, now)
}

/// Forgets what is older than it is remembered.
fn forget(db: &Connection, now: Timestamp) -> DbResult<()> {
    let before = |age: Duration| {
        let epoch = Timestamp::default();
        time(epoch.plus(now.since(epoch.plus(age))))
    };
    let [gone, lost, failed] =
        [RecordState::Gone, RecordState::Lost, RecordState::Failed].map(RecordState::label);
    let sql = "DELETE FROM deployments WHERE wanted = ?1 AND changed_at < ?2 AND NOT EXISTS \
               (SELECT 1 FROM instances WHERE deployment = deployments.id AND state NOT IN (?3, ?4, ?5))";
    db.execute(sql, params![Wanted::Gone.label(), before(REMEMBERED), gone, lost, failed])?;
    // The last of each deployment stays: numbers go on from it and are never given twice.
    let sql = "DELETE FROM instances AS old WHERE state IN (?1, ?2, ?3) \
                AND number < (SELECT max(number) FROM instances WHERE deployment = old.deployment) \
                AND (since < ?4 OR (since < ?5 AND number <= (SELECT number FROM instances \
                      WHERE deployment = old.deployment AND state IN (?1, ?2, ?3) \
                      ORDER BY number DESC LIMIT 1 OFFSET ?6)))";
    let values = params![gone, lost, failed, before(ENDED_REMEMBERED), before(ENDED_LATELY), ENDED_AT_MOST];
    db.execute(sql, values)?;
    spans::forget(db, before(SPANS_REMEMBERED))?;
    let epoch = Timestamp::default();
    costs::forget(db, epoch.plus(now.since(epoch.plus(SPANS_REMEMBERED))))?;
    db.execute("DELETE FROM lifecycle_events WHERE at < ?1", params![before(REMEMBERED)])?;
    let sql = "SELECT deployment FROM lifecycle_events GROUP BY deployment HAVING count(*) > ?1";
    let mut statement = db.prepare(sql)?;
    let many = statement.query_map(params![EVENTS_AT_MOST], |row| row.get::<_, String>(0))?;
    for deployment in many.collect::<rusqlite::Result<Vec<_>>>()? {
        let sql = "DELETE FROM lifecycle_events WHERE deployment = ?1 AND seq <= (SELECT seq FROM lifecycle_events \
                    WHERE deployment = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)";
        db.execute(sql, params![deployment, EVENTS_AT_MOST])?;
    }
    Ok(())
}

pub(crate) fn event(
    db: &Connection,
    at: Timestamp,
    deployment: &str,
    instance: Option<&str>,
    what: &str,
    reason: &str,
) -> DbResult<()> {
    let sql =
        "INSERT INTO lifecycle_events (at, deployment, instance, what, reason) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.execute(sql, params![time(at), deployment, instance, what, reason])?;
    Ok(())
}
