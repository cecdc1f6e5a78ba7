//! Alerts about costs, what was told of them, and what machines sent.

mod alerts;
mod egress;
mod events;

use std::collections::BTreeMap;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::alert::{
    Alert, AlertAction, AlertEvent, AlertTerms, Bill, Delivery, Finding, Held, Period, held, last_believed,
};
use blueprint_hub_provision_core::cost::egress::Egress;
use blueprint_hub_provision_core::cost::{CostStore, Deliveries, Limits, SetAlertError, Span, Told};
use blueprint_hub_provision_core::lifecycle::{RecordsError, RecordsResult};
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use futures_util::future::BoxFuture;
use rusqlite::Connection;

use crate::SqliteStore;
use crate::error::{DbError, DbResult};

pub(crate) use egress::{columns as egress_columns, price as egress_price};

impl SqliteStore {
    /// Runs `work`, and puts its failure into the words of the meter.
    async fn costs<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> DbResult<T> + Send + 'static,
    ) -> RecordsResult<T> {
        let done = self.queue.call(action, work).await;
        done.map_err(|source| RecordsError { action, source: Box::new(source) })
    }
}

impl CostStore for SqliteStore {
    fn alerts(&self) -> BoxFuture<'_, RecordsResult<Vec<Alert>>> {
        Box::pin(self.costs("read the alerts", alerts::load))
    }

    fn set_alert(
        &self,
        name: String,
        terms: AlertTerms,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Alert, SetAlertError>> {
        Box::pin(async move {
            let set = self.costs("store an alert", move |db| alerts::set(db, &name, terms, now)).await?;
            set.ok_or(SetAlertError::TooMany)
        })
    }

    fn remove_alert(&self, name: String, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        Box::pin(self.costs("remove an alert", move |db| alerts::remove(db, &name, now)))
    }

    fn release_alert(
        &self,
        name: String,
        period: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>> {
        Box::pin(self.costs("release an alert", move |db| alerts::release(db, &name, &period, now)))
    }

    fn told(&self, now: Timestamp) -> BoxFuture<'_, RecordsResult<Told>> {
        Box::pin(self.costs("read what alerts told", move |db| events::told(db, now)))
    }

    fn fire(
        &self,
        name: String,
        edition: u64,
        findings: Vec<Finding>,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Vec<AlertEvent>>> {
        let work = move |db: &Connection| events::fire(db, &name, edition, findings, now);
        Box::pin(self.costs("store what an alert tells", work))
    }

    fn end_by_alert(
        &self,
        name: String,
        edition: u64,
        deployments: Vec<DeploymentId>,
        limits: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Vec<DeploymentId>>> {
        let work = move |db: &Connection| end(db, (&name, edition), deployments, &limits, now);
        Box::pin(self.costs("end deployments by an alert", work))
    }

    fn alert_events(
        &self,
        name: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, RecordsResult<Vec<AlertEvent>>> {
        let work = move |db: &Connection| events::newest(db, name.as_deref(), limit);
        Box::pin(self.costs("read the history of alerts", work))
    }

    fn deliveries(&self, now: Timestamp, limit: u32) -> BoxFuture<'_, RecordsResult<Deliveries>> {
        Box::pin(self.costs("read the messages of alerts", move |db| events::deliveries(db, now, limit)))
    }

    fn note_delivery(&self, id: u64, delivery: Delivery) -> BoxFuture<'_, RecordsResult<()>> {
        Box::pin(self.costs("note a message of an alert", move |db| events::note(db, id, &delivery)))
    }

    fn add_egress(&self, bytes: BTreeMap<InstanceKey, u64>, day: Day) -> BoxFuture<'_, RecordsResult<()>> {
        Box::pin(self.costs("store what machines sent", move |db| egress::add(db, &bytes, day)))
    }

    fn egress(&self, since: Day) -> BoxFuture<'_, RecordsResult<Vec<Egress>>> {
        Box::pin(self.costs("read what machines sent", move |db| egress::load(db, since)))
    }
}

/// The alert that does not let a machine of `deployment` be ordered at `provider` now; to be asked in the transaction of the
/// intent. `recent` are the spans of this month at least. A clock that was set while the hub was away lifts nothing.
pub(crate) fn holds(
    db: &Connection,
    (deployment, provider): (&DeploymentId, &str),
    limits: &Limits,
    recent: &[Span],
    now: Timestamp,
) -> DbResult<Option<Held>> {
    let alerts = alerts::load(db)?;
    if alerts.is_empty() {
        return Ok(None);
    }
    let is_whole = alerts.iter().any(|alert| alert.terms.period == Period::Total);
    let last = last_believed(crate::lifecycle::scanned_at(db)?, now);
    let (spans, egress) = meter(db, is_whole || last.is_some(), recent, now)?;
    let bill = Bill { spans: &spans, egress: &egress, limits, now, last };
    Ok(held(&alerts, &bill, deployment, provider))
}

/// Ends those of `deployments` that are not gone, where the alert still says so.
fn end(
    db: &Connection,
    (name, edition): (&str, u64),
    deployments: Vec<DeploymentId>,
    limits: &Limits,
    now: Timestamp,
) -> DbResult<Vec<DeploymentId>> {
    let ends = |alert: &Alert| alert.edition == edition && alert.terms.action == AlertAction::Terminate;
    let Some(alert) = alerts::one(db, name)?.filter(ends) else { return Ok(Vec::new()) };
    let recent = crate::lifecycle::recent_spans(db, now)?;
    let (spans, egress) = meter(db, alert.terms.period == Period::Total, &recent, now)?;
    if !alert.standing(&Bill { spans: &spans, egress: &egress, limits, now, last: None }).is_in_force {
        return Ok(Vec::new());
    }
    let why = format!("alert {name}: ${} is spent", alert.terms.amount);
    let mut ended = Vec::new();
    for id in deployments {
        if crate::lifecycle::end(db, &id, &why, now)? {
            ended.push(id);
        }
    }
    Ok(ended)
}

/// All that the meter says: of this month, or all there is where an alert counts the whole life of a deployment.
fn meter(
    db: &Connection,
    is_whole: bool,
    recent: &[Span],
    now: Timestamp,
) -> DbResult<(Vec<Span>, Vec<Egress>)> {
    let (spans, since) = if is_whole {
        (crate::lifecycle::all_spans(db)?, Day::from(Timestamp::default()))
    } else {
        (recent.to_vec(), Day::from(now).back(62))
    };
    Ok((spans, egress::load(db, since)?))
}

/// Forgets what is older than `before`, a day or the time of it.
pub(crate) fn forget(db: &Connection, before: Timestamp) -> DbResult<()> {
    events::forget(db, before)?;
    egress::forget(db, Day::from(before))
}

/// An amount in column `index`.
fn read_micros(row: &rusqlite::Row<'_>, index: usize) -> DbResult<Micros> {
    amount(row.get(index)?)
}

fn amount(value: i64) -> DbResult<Micros> {
    let value = u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not an amount")))?;
    Ok(Micros::new(value))
}

fn number(value: i64) -> DbResult<u64> {
    u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not a number")))
}

/// A number as a column; what is beyond its range is stored as the end of it.
fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
