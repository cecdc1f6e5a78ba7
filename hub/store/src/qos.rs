//! History of quality of service: rows of minutes and hours, what services said, objectives.

mod pages;
mod past;
mod prune;
mod rows;
mod write;

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::qos::{
    Batch, Keep, Objective, ObjectiveRecord, PagePoint, Past, Pruned, QosRows, QosStore, Step, Subject,
    Written,
};
use blueprint_hub_registry_core::{AuditEvent, AuditKind, StoreResult};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, Row, params};

use crate::convert::{read_service, read_time, service, time};
use crate::error::{DbError, DbResult};
use crate::{SqliteStore, audit};

impl QosStore for SqliteStore {
    fn write_qos(&self, batch: Batch) -> BoxFuture<'_, StoreResult<Written>> {
        Box::pin(self.queue.call("store quality of service", move |db| write::write(db, &batch)))
    }

    fn prune_qos(&self, keep: Keep, now: Timestamp) -> BoxFuture<'_, StoreResult<Pruned>> {
        Box::pin(self.queue.call("forget old quality of service", move |db| prune::prune(db, keep, now)))
    }

    fn qos_rows(
        &self,
        of: Subject,
        step: Step,
        range: (Timestamp, Timestamp),
        most: u32,
    ) -> BoxFuture<'_, StoreResult<QosRows>> {
        Box::pin(self.queue.call("read quality of service", move |db| rows::of(db, of, step, range, most)))
    }

    fn qos_past(&self) -> BoxFuture<'_, StoreResult<Past>> {
        Box::pin(self.queue.call("read what was known before the start", past::past))
    }

    fn qos_hours(
        &self,
        service: ServiceKey,
        range: (Timestamp, Timestamp),
    ) -> BoxFuture<'_, StoreResult<QosRows>> {
        Box::pin(self.queue.call("read hours of a service", move |db| past::hours(db, service, range)))
    }

    fn qos_begins(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Option<Timestamp>>> {
        Box::pin(self.queue.call("read the start of quality of service", move |db| past::begins(db, service)))
    }

    fn write_pages(
        &self,
        pages: Vec<(ServiceKey, PagePoint)>,
        keep: Duration,
        most: (u32, u32),
    ) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("store what services said", move |db| pages::write(db, &pages, keep, most)))
    }

    fn pages(
        &self,
        service: ServiceKey,
        range: (Timestamp, Timestamp),
        most: u32,
    ) -> BoxFuture<'_, StoreResult<Vec<PagePoint>>> {
        let read =
            self.queue.call("read what a service said", move |db| pages::read(db, service, range, most));
        // They are long: the thread of the store does not parse them.
        Box::pin(async move { pages::parse(read.await?) })
    }

    fn objectives(&self) -> BoxFuture<'_, StoreResult<Vec<ObjectiveRecord>>> {
        Box::pin(self.queue.call("read the objectives", objectives))
    }

    fn set_objective(
        &self,
        service: ServiceKey,
        objective: Option<Objective>,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("store an objective", move |db| set_objective(db, service, objective, now)))
    }
}

/// Of these targets of an agent, those that rows are about.
pub(crate) fn recorded(
    db: &Connection,
    agent: AgentId,
    asked: BTreeSet<(ServiceKey, u16)>,
) -> DbResult<BTreeSet<(ServiceKey, u16)>> {
    let sql = "SELECT 1 FROM qos_subjects \
               WHERE kind = ?1 AND blueprint = ?2 AND service = ?3 AND agent = ?4 AND port = ?5";
    let mut statement = db.prepare(sql)?;
    let mut found = BTreeSet::new();
    for (service, port) in asked {
        let (kind, blueprint, number, agent, _) =
            rows::named(Subject::Target(TargetKey { service, agent, port }));
        if statement.exists(params![kind, blueprint, number, agent, port])? {
            found.insert((service, port));
        }
    }
    Ok(found)
}

fn objectives(db: &Connection) -> DbResult<Vec<ObjectiveRecord>> {
    let sql = "SELECT blueprint, service, thousandths, changed_at FROM qos_objectives";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let objective = Objective::new(row.get(2)?);
        let objective =
            objective.ok_or_else(|| DbError::Damaged("an objective is out of range".to_owned()))?;
        records.push(ObjectiveRecord {
            service: read_service(row, 0)?,
            objective,
            changed_at: read_time(row, 3)?,
        });
    }
    records.sort_by_key(|record| record.service);
    Ok(records)
}

fn set_objective(
    db: &Connection,
    key: ServiceKey,
    objective: Option<Objective>,
    now: Timestamp,
) -> DbResult<bool> {
    let (blueprint, number) = service(key);
    let Some(objective) = objective else {
        let sql = "DELETE FROM qos_objectives WHERE blueprint = ?1 AND service = ?2";
        if db.execute(sql, params![blueprint, number])? == 0 {
            return Ok(false);
        }
        let detail = format_args!("{} % is the default", Objective::default());
        audit::append(db, AuditEvent::new(AuditKind::ObjectiveRemove, key, detail), now)?;
        return Ok(true);
    };
    let sql = "INSERT INTO qos_objectives (blueprint, service, thousandths, changed_at) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (blueprint, service) DO UPDATE SET thousandths = excluded.thousandths, \
               changed_at = excluded.changed_at";
    db.execute(sql, params![blueprint, number, objective.thousandths(), time(now)])?;
    audit::append(db, AuditEvent::new(AuditKind::ObjectiveSet, key, format_args!("{objective} %")), now)?;
    Ok(true)
}

/// A number as a column; what is beyond its range is stored as the end of it.
fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The number in a column.
fn number(row: &Row<'_>, index: usize) -> DbResult<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not a number")))
}
