//! Deployments and their machines.

mod create;
mod forget;
mod machines;
mod read;
mod spans;

use std::time::Duration;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::cost::{Limits, Span};
use blueprint_hub_provision_core::lifecycle::{
    Begun, BoundToken, CreateDeploymentError, Deployment, Event, LifecycleStore, Record, Records,
    RecordsError, RecordsResult, Wanted,
};
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use blueprint_hub_registry_core::{AuditEvent, AuditKind, StoreResult};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};

use self::create::create;
use self::forget::{SCANNED_AT, note_scan};
use self::machines::{begin, save};
pub(crate) use self::machines::{bind, bind_listed};
use crate::convert::time;
use crate::error::DbResult;
use crate::{SqliteStore, audit};

pub(crate) use read::{load, one as find, scanned_at};

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

/// A price as a column.
fn micros(amount: Micros) -> i64 {
    i64::try_from(amount.get()).unwrap_or(i64::MAX)
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
