//! History of quality of service: rows of minutes and hours, what services said, objectives.

mod objectives;
mod pages;
mod past;
mod prune;
mod rows;
mod write;

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::StoreResult;
use blueprint_hub_registry_core::qos::{
    Batch, Keep, Objective, ObjectiveOf, ObjectiveRecord, PagePoint, Past, Pruned, QosRows, QosStore, Step,
    Subject, Written,
};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, Row, params};

use crate::SqliteStore;
use crate::error::{DbError, DbResult};

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

    fn qos_hours(&self, of: Subject, range: (Timestamp, Timestamp)) -> BoxFuture<'_, StoreResult<QosRows>> {
        Box::pin(self.queue.call("read hours of a month", move |db| past::hours(db, of, range)))
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
        Box::pin(self.queue.call("read the objectives", objectives::list))
    }

    fn set_objective(
        &self,
        of: ObjectiveOf,
        objective: Option<Objective>,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("store an objective", move |db| objectives::set(db, of, objective, now)))
    }
}

pub(crate) use objectives::forget_agent;

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

/// A number as a column; what is beyond its range is stored as the end of it.
fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The number in a column.
fn number(row: &Row<'_>, index: usize) -> DbResult<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not a number")))
}
