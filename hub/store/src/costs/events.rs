//! What alerts told, and the messages of it.

use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::cost::alert::{
    AlertEvent, AlertKind, Delivery, DeliveryState, Finding, Mark, Period,
};
use blueprint_hub_provision_core::cost::{Deliveries, Told};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, Row, params};

use super::{alerts, amount, column, number, read_micros};
use crate::audit;
use crate::convert::{read_optional_time, read_text, read_time, time};
use crate::error::DbResult;

/// Messages that may wait; what comes then is stored and not sent.
const WAITING_AT_MOST: u32 = 1000;

const SELECT: &str = "SELECT id, alert, at, amount, action, kind, period, threshold, spent, forecast, text, delivery, attempts, \
                      next_at, error FROM cost_alert_events";

/// Longer than a month.
const MONTH: Duration = Duration::from_secs(40 * 24 * 3600);

/// What was told of each alert in its present edition, as far as its period may be under way.
pub(super) fn told(db: &Connection, now: Timestamp) -> DbResult<Told> {
    let sql = "SELECT cost_alerts.name, events.kind, events.period, events.threshold FROM cost_alert_events AS events \
               JOIN cost_alerts ON cost_alerts.edition = events.edition \
               WHERE events.kind <> ?1 AND (events.at >= ?2 OR events.period = ?3)";
    let mut statement = db.prepare(sql)?;
    let epoch = Timestamp::default();
    let recent = epoch.plus(now.since(epoch.plus(MONTH)));
    let mut rows = statement.query(params![AlertKind::Test.label(), time(recent), Period::Total.label()])?;
    let mut told = Told::new();
    while let Some(row) = rows.next()? {
        let mark = Mark { kind: read_text(row, 1)?, period: row.get(2)?, threshold: row.get(3)? };
        told.entry(row.get(0)?).or_default().insert(mark);
    }
    Ok(told)
}

/// Stores what was not told in this edition; gives it.
pub(super) fn fire(
    db: &Connection,
    name: &str,
    edition: u64,
    findings: Vec<Finding>,
    now: Timestamp,
) -> DbResult<Vec<AlertEvent>> {
    let Some(alert) = alerts::one(db, name)?.filter(|alert| alert.edition == edition) else {
        return Ok(Vec::new());
    };
    let mut events = Vec::new();
    for finding in findings {
        let mut delivery = Delivery::new(alert.terms.webhook.is_some(), now);
        if delivery.state == DeliveryState::Waiting && waiting(db)? >= WAITING_AT_MOST {
            let error = format!("{WAITING_AT_MOST} messages wait already");
            delivery = Delivery { state: DeliveryState::Dropped, attempts: 0, next_at: None, error };
        }
        let sql = "INSERT INTO cost_alert_events (alert, edition, kind, period, threshold, at, amount, action, spent, forecast, \
                    text, delivery, attempts, next_at, error) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
                   ON CONFLICT (edition, kind, period, threshold) DO NOTHING";
        let values = params![
            name,
            column(edition),
            finding.mark.kind.label(),
            finding.mark.period,
            finding.mark.threshold,
            time(now),
            column(alert.terms.amount.get()),
            alert.terms.action.label(),
            column(finding.spent.get()),
            finding.forecast.map(|forecast| column(forecast.get())),
            finding.text,
            delivery.state.label(),
            delivery.attempts,
            delivery.next_at.map(time),
            delivery.error,
        ];
        if db.execute(sql, values)? == 0 {
            continue;
        }
        let id = number(db.last_insert_rowid())?;
        audit::append(db, AuditEvent::new(AuditKind::AlertFire, name, &finding.text), now)?;
        let (amount, action) = (alert.terms.amount, alert.terms.action);
        events.push(AlertEvent { id, alert: name.to_owned(), at: now, amount, action, finding, delivery });
    }
    Ok(events)
}

fn waiting(db: &Connection) -> DbResult<u32> {
    let sql = "SELECT count(*) FROM cost_alert_events WHERE delivery = 'waiting'";
    Ok(db.query_row(sql, [], |row| row.get(0))?)
}

/// The newest, oldest first.
pub(super) fn newest(db: &Connection, name: Option<&str>, limit: u32) -> DbResult<Vec<AlertEvent>> {
    let sql = format!("{SELECT} WHERE ?1 IS NULL OR alert = ?1 ORDER BY id DESC LIMIT ?2");
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(params![name, limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(read(row)?);
    }
    events.reverse();
    Ok(events)
}

/// Messages that wait.
pub(super) fn deliveries(db: &Connection, now: Timestamp, limit: u32) -> DbResult<Deliveries> {
    let sql = format!("{SELECT} WHERE delivery = 'waiting' AND next_at <= ?1 ORDER BY next_at, id LIMIT ?2");
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(params![time(now), limit])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        let event = read(row)?;
        let alert = alerts::one(db, &event.alert)?;
        due.extend(alert.and_then(|alert| alert.terms.webhook).map(|hook| (event, hook)));
    }
    let sql = "SELECT min(next_at) FROM cost_alert_events WHERE delivery = 'waiting' AND next_at > ?1";
    let next = db.query_row(sql, params![time(now)], |row| Ok(read_optional_time(row, 0)))??;
    Ok(Deliveries { due, next, waiting: waiting(db)? })
}

/// Notes how it stands with a message; one that was dropped meanwhile stays so, unless it arrived.
pub(super) fn note(db: &Connection, id: u64, delivery: &Delivery) -> DbResult<()> {
    let sql = "UPDATE cost_alert_events SET delivery = ?2, attempts = ?3, next_at = ?4, error = ?5 \
               WHERE id = ?1 AND (delivery = 'waiting' OR ?2 = 'delivered')";
    let Delivery { state, attempts, next_at, error } = delivery;
    db.execute(sql, params![column(id), state.label(), attempts, next_at.map(time), error])?;
    Ok(())
}

/// Forgets what was told before `before`.
pub(super) fn forget(db: &Connection, before: Timestamp) -> DbResult<()> {
    db.execute("DELETE FROM cost_alert_events WHERE at < ?1", params![time(before)])?;
    Ok(())
}

fn read(row: &Row<'_>) -> DbResult<AlertEvent> {
    let mark = Mark { kind: read_text(row, 5)?, period: row.get(6)?, threshold: row.get(7)? };
    let forecast = row.get::<_, Option<i64>>(9)?.map(amount).transpose()?;
    Ok(AlertEvent {
        id: number(row.get(0)?)?,
        alert: row.get(1)?,
        at: read_time(row, 2)?,
        amount: read_micros(row, 3)?,
        action: read_text(row, 4)?,
        finding: Finding { mark, spent: read_micros(row, 8)?, forecast, text: row.get(10)? },
        delivery: Delivery {
            state: read_text(row, 11)?,
            attempts: row.get(12)?,
            next_at: read_optional_time(row, 13)?,
            error: row.get(14)?,
        },
    })
}
