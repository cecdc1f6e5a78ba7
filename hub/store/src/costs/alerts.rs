//! Alerts as rows.

use std::collections::BTreeSet;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::cost::alert::{
    Alert, AlertTerms, Anomaly, DeliveryState, Hook, MAX_ALERTS, Scope,
};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, Row, params};

use super::{column, number, read_micros};
use crate::audit;
use crate::convert::{read_text, read_time, time};
use crate::counters::{meta_get, meta_set};
use crate::error::{DbError, DbResult};

/// The last edition that was given.
const EDITION: &str = "alerts.edition";

const SELECT: &str = "SELECT name, edition, scope, subject, period, amount, thresholds, action, anomaly_times, anomaly_floor, \
                      webhook, sealed, released, created_at, changed_at FROM cost_alerts";

/// Every alert, by name.
pub(super) fn load(db: &Connection) -> DbResult<Vec<Alert>> {
    let mut statement = db.prepare(&format!("{SELECT} ORDER BY name"))?;
    let mut rows = statement.query([])?;
    let mut alerts = Vec::new();
    while let Some(row) = rows.next()? {
        alerts.push(read(row)?);
    }
    Ok(alerts)
}

/// The one of this name.
pub(super) fn one(db: &Connection, name: &str) -> DbResult<Option<Alert>> {
    let mut statement = db.prepare(&format!("{SELECT} WHERE name = ?1"))?;
    let mut rows = statement.query(params![name])?;
    rows.next()?.map(read).transpose()
}

fn read(row: &Row<'_>) -> DbResult<Alert> {
    let wrong = |what: String| DbError::Damaged(format!("the scope of an alert: {what}"));
    let (scope, subject): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let scope = match (scope.as_str(), subject) {
        ("all", None) => Scope::All,
        ("deployment", Some(id)) => Scope::Deployment(id.parse().map_err(|error| wrong(format!("{error}")))?),
        ("provider", Some(name)) => Scope::Provider(name),
        _ => return Err(wrong(scope)),
    };
    let anomaly = match row.get::<_, Option<u32>>(8)? {
        Some(times) => Some(Anomaly { times, floor: read_micros(row, 9)? }),
        None => None,
    };
    let hook = row.get::<_, Option<String>>(10)?.zip(row.get::<_, Option<String>>(11)?);
    Ok(Alert {
        name: row.get(0)?,
        terms: AlertTerms {
            scope,
            period: read_text(row, 4)?,
            amount: read_micros(row, 5)?,
            thresholds: thresholds(&row.get::<_, String>(6)?)?,
            action: read_text(row, 7)?,
            anomaly,
            webhook: hook.map(|(shown, sealed)| Hook { shown, sealed }),
        },
        edition: number(row.get(1)?)?,
        released: row.get(12)?,
        created_at: read_time(row, 13)?,
        changed_at: read_time(row, 14)?,
    })
}

fn thresholds(text: &str) -> DbResult<BTreeSet<u16>> {
    let wrong = || DbError::Damaged(format!("{text:?} are no thresholds"));
    text.split(',').map(|one| one.parse().map_err(|_| wrong())).collect()
}

/// Stores an alert; `None` where there are as many as there may be.
pub(super) fn set(db: &Connection, name: &str, terms: AlertTerms, now: Timestamp) -> DbResult<Option<Alert>> {
    let before = one(db, name)?;
    let count: u32 = db.query_row("SELECT count(*) FROM cost_alerts", [], |row| row.get(0))?;
    if before.is_none() && count >= MAX_ALERTS {
        return Ok(None);
    }
    let is_same = |known: &&Alert| {
        let known = &known.terms;
        (&known.scope, known.period, known.amount) == (&terms.scope, terms.period, terms.amount)
    };
    let same = before.as_ref().filter(is_same);
    let (edition, released) = match same {
        Some(known) => (known.edition, known.released.clone()),
        None => (next_edition(db)?, None),
    };
    let created_at = before.as_ref().map_or(now, |known| known.created_at);
    let alert = Alert { name: name.to_owned(), terms, edition, released, created_at, changed_at: now };
    let AlertTerms { scope, period, amount, thresholds, action, anomaly, webhook } = &alert.terms;
    let at: Vec<String> = thresholds.iter().map(ToString::to_string).collect();
    let at = at.join(",");
    let sql = "INSERT INTO cost_alerts (name, edition, scope, subject, period, amount, thresholds, action, \
                anomaly_times, anomaly_floor, webhook, sealed, released, created_at, changed_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
               ON CONFLICT (name) DO UPDATE SET edition = excluded.edition, scope = excluded.scope, \
                subject = excluded.subject, period = excluded.period, amount = excluded.amount, \
                thresholds = excluded.thresholds, action = excluded.action, anomaly_times = excluded.anomaly_times, \
                anomaly_floor = excluded.anomaly_floor, webhook = excluded.webhook, sealed = excluded.sealed, \
                released = excluded.released, changed_at = excluded.changed_at";
    let values = params![
        name,
        column(edition),
        scope.label(),
        scope.subject(),
        period.label(),
        column(amount.get()),
        at,
        action.label(),
        anomaly.map(|anomaly| anomaly.times),
        anomaly.map(|anomaly| column(anomaly.floor.get())),
        webhook.as_ref().map(|hook| &hook.shown),
        webhook.as_ref().map(|hook| &hook.sealed),
        alert.released,
        time(alert.created_at),
        time(now),
    ];
    db.execute(sql, values)?;
    let detail = format!("${amount} per {period} of {scope}, at {at} %, {action}");
    audit::append(db, AuditEvent::new(AuditKind::AlertSet, name, detail), now)?;
    if alert.terms.webhook.is_none() {
        drop_messages(db, name, "the alert has no webhook any more")?;
    }
    Ok(Some(alert))
}

fn next_edition(db: &Connection) -> DbResult<u64> {
    let last: u64 = meta_get(db, EDITION)?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let next = last.saturating_add(1);
    meta_set(db, EDITION, &next.to_string())?;
    Ok(next)
}

/// Forgets an alert; false where there is none.
pub(super) fn remove(db: &Connection, name: &str, now: Timestamp) -> DbResult<bool> {
    if db.execute("DELETE FROM cost_alerts WHERE name = ?1", params![name])? == 0 {
        return Ok(false);
    }
    drop_messages(db, name, "the alert was removed")?;
    audit::append(db, AuditEvent::new(AuditKind::AlertRemove, name, "by the operator"), now)?;
    Ok(true)
}

/// Messages of an alert that wait have nowhere to go any more.
fn drop_messages(db: &Connection, name: &str, why: &str) -> DbResult<()> {
    let sql = "UPDATE cost_alert_events SET delivery = ?2, next_at = NULL, error = ?3 WHERE alert = ?1 AND delivery = ?4";
    db.execute(sql, params![name, DeliveryState::Dropped.label(), why, DeliveryState::Waiting.label()])?;
    Ok(())
}

/// Calls the action of an alert off for one period; false where there is none.
pub(super) fn release(db: &Connection, name: &str, period: &str, now: Timestamp) -> DbResult<bool> {
    let sql = "UPDATE cost_alerts SET released = ?2 WHERE name = ?1";
    if db.execute(sql, params![name, period])? == 0 {
        return Ok(false);
    }
    audit::append(db, AuditEvent::new(AuditKind::AlertRelease, name, format!("for {period}")), now)?;
    Ok(true)
}
