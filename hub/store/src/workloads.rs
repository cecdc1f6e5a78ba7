//! Workloads: what each node runs.

mod events;

use std::collections::BTreeSet;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{
    NewUpdate, Placed, StoredUpdate, ThrownAway, Update, Version, WorkloadChange, WorkloadChangeError,
    WorkloadEvent, WorkloadRecord, WorkloadStore,
};
use blueprint_hub_registry_core::{AuditEvent, AuditKind, StoreResult};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, Row, params};

use crate::convert::{read_service, read_time, service, time};
use crate::error::{DbError, DbResult};
use crate::{SqliteStore, audit, updates, versions};

impl WorkloadStore for SqliteStore {
    fn list_workloads(&self) -> BoxFuture<'_, StoreResult<Vec<WorkloadRecord>>> {
        Box::pin(self.queue.call("list workloads", list))
    }

    fn set_workload(
        &self,
        change: WorkloadChange,
    ) -> BoxFuture<'_, Result<WorkloadRecord, WorkloadChangeError>> {
        Box::pin(async move { self.queue.call("save a workload", move |db| set(db, change)).await? })
    }

    fn place_workload(&self, placed: Placed) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>> {
        Box::pin(self.queue.call("place a workload", move |db| place(db, &placed)))
    }

    fn keep_node(
        &self,
        service: ServiceKey,
        generation: u64,
        node: Option<AgentId>,
    ) -> BoxFuture<'_, StoreResult<()>> {
        let write = move |db: &Connection| keep_node(db, service, generation, node);
        Box::pin(self.queue.call("save the node of a workload", write))
    }

    fn list_updates(&self) -> BoxFuture<'_, StoreResult<Vec<StoredUpdate>>> {
        Box::pin(self.queue.call("list updates", updates::list))
    }

    fn list_versions(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<Version>>> {
        Box::pin(self.queue.call("list versions", move |db| versions::list(db, service)))
    }

    fn trim_versions(&self, keep: usize, now: Timestamp) -> BoxFuture<'_, StoreResult<ThrownAway>> {
        Box::pin(self.queue.call("throw versions away", move |db| versions::trim(db, keep, now)))
    }

    fn begin_update(&self, update: NewUpdate) -> BoxFuture<'_, StoreResult<Option<StoredUpdate>>> {
        Box::pin(self.queue.call("begin an update", move |db| updates::begin(db, update)))
    }

    fn save_update(&self, update: Update) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("save an update", move |db| updates::save(db, &update)))
    }

    fn finish_update(
        &self,
        service: ServiceKey,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>> {
        Box::pin(self.queue.call("finish an update", move |db| updates::finish(db, service, now)))
    }

    fn take_back_update(
        &self,
        service: ServiceKey,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>> {
        Box::pin(
            self.queue.call("take an update back", move |db| updates::take_back(db, service, &reason, now)),
        )
    }

    fn remove_workload(
        &self,
        service: ServiceKey,
        why: &'static str,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("remove a workload", move |db| remove(db, service, why, now)))
    }

    fn journal(&self, events: Vec<WorkloadEvent>, now: Timestamp) -> BoxFuture<'_, StoreResult<()>> {
        let write = move |db: &Connection| events.iter().try_for_each(|event| events::append(db, event, now));
        Box::pin(self.queue.call("write the journal of a workload", write))
    }

    fn events(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>> {
        Box::pin(self.queue.call("read the journal of a workload", move |db| events::of(db, service)))
    }

    fn fail_overs(&self, since: Timestamp) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>> {
        Box::pin(self.queue.call("read moves of workloads", move |db| events::fail_overs(db, since)))
    }
}

fn list(db: &Connection) -> DbResult<Vec<WorkloadRecord>> {
    let sql = "SELECT blueprint, service, generation, document, nodes, node, keystore, changed_at, version, slot \
               FROM workloads";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(read(row)?);
    }
    records.sort_by_key(|record: &WorkloadRecord| record.service);
    Ok(records)
}

fn read(row: &Row<'_>) -> DbResult<WorkloadRecord> {
    let generation: i64 = row.get(2)?;
    let damaged = |what: &str| DbError::Damaged(format!("a workload has the {what}"));
    Ok(WorkloadRecord {
        service: read_service(row, 0)?,
        generation: u64::try_from(generation).map_err(|_| damaged(&format!("generation {generation}")))?,
        document: row.get(3)?,
        nodes: read_nodes(row, 4)?,
        node: row.get::<_, Option<[u8; 16]>>(5)?.map(AgentId::from_bytes),
        keystore: row.get(6)?,
        changed_at: read_time(row, 7)?,
        version: row.get(8)?,
        slot: row.get(9)?,
    })
}

/// Nodes that may run it, in column `index`.
pub(crate) fn read_nodes(row: &Row<'_>, index: usize) -> DbResult<BTreeSet<AgentId>> {
    let text: String = row.get(index)?;
    let nodes = text.split(',').filter(|text| !text.is_empty()).map(str::parse);
    let nodes: Result<_, _> = nodes.collect();
    nodes.map_err(|error: <AgentId as std::str::FromStr>::Err| DbError::Damaged(error.to_string()))
}

/// Nodes as a column.
pub(crate) fn nodes_text(nodes: &BTreeSet<AgentId>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn find(db: &Connection, key: ServiceKey) -> DbResult<Option<WorkloadRecord>> {
    Ok(list(db)?.into_iter().find(|record| record.service == key))
}

fn set(db: &Connection, change: WorkloadChange) -> DbResult<Result<WorkloadRecord, WorkloadChangeError>> {
    let before = find(db, change.service)?;
    let current = before.as_ref().map_or(0, |record| record.generation);
    if change.replaces.is_some_and(|generation| generation != current) {
        return Ok(Err(WorkloadChangeError::Conflict { current }));
    }
    if let Some(update) = updates::get(db, change.service)? {
        return Ok(Err(WorkloadChangeError::Updating { to: update.to }));
    }
    let version = versions::of_change(db, before.as_ref(), &change)?;
    let slot = before.as_ref().map_or(0, |record| record.slot);
    let stays = |node: &AgentId| change.nodes.is_empty() || change.nodes.contains(node);
    let record = WorkloadRecord {
        service: change.service,
        generation: next(current, change.now),
        document: change.document,
        node: before.and_then(|record| record.node).filter(stays),
        nodes: change.nodes,
        keystore: change.keystore,
        changed_at: change.now,
        version,
        slot,
    };
    write(db, &record)?;
    audit::append(db, AuditEvent::new(AuditKind::WorkloadSet, record.service, change.summary), change.now)?;
    Ok(Ok(record))
}

/// Above every generation that this service ever had, also where it was removed in between.
pub(crate) fn next(current: u64, now: Timestamp) -> u64 {
    current.saturating_add(1).max(now.as_millis())
}

fn place(db: &Connection, placed: &Placed) -> DbResult<Option<WorkloadRecord>> {
    let Some(mut record) = find(db, placed.service)?.filter(|it| it.generation == placed.generation) else {
        return Ok(None);
    };
    // Above that of a next version beside it, too: the two are told apart by it.
    let beside = updates::get(db, placed.service)?.and_then(|update| update.next);
    let highest = record.generation.max(beside.map_or(0, |next| next.generation));
    record.generation = next(highest, placed.now);
    record.node = Some(placed.node);
    write(db, &record)?;
    let event = WorkloadEvent {
        service: placed.service,
        generation: record.generation,
        at: placed.now,
        node: placed.from,
        kind: placed.kind,
        reason: placed.reason.clone(),
    };
    events::append(db, &event, placed.now)?;
    let detail = format_args!("to {}: {}", placed.node, placed.reason);
    audit::append(db, AuditEvent::new(AuditKind::WorkloadMove, placed.service, detail), placed.now)?;
    Ok(Some(record))
}

fn keep_node(db: &Connection, key: ServiceKey, generation: u64, node: Option<AgentId>) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let generation = i64::try_from(generation).unwrap_or(i64::MAX);
    let node = node.map(|node| *node.as_bytes());
    let sql = "UPDATE workloads SET node = ?4 WHERE blueprint = ?1 AND service = ?2 AND generation = ?3";
    db.execute(sql, params![blueprint, number, generation, node])?;
    Ok(())
}

pub(crate) fn write(db: &Connection, record: &WorkloadRecord) -> DbResult<()> {
    let (blueprint, number) = service(record.service);
    let sql = "INSERT OR REPLACE INTO workloads \
               (blueprint, service, generation, document, nodes, node, keystore, changed_at, version, slot) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        blueprint,
        number,
        i64::try_from(record.generation).unwrap_or(i64::MAX),
        record.document,
        nodes_text(&record.nodes),
        record.node.as_ref().map(|node| *node.as_bytes()),
        record.keystore,
        time(record.changed_at),
        record.version,
        record.slot,
    ];
    db.execute(sql, values)?;
    Ok(())
}

fn remove(db: &Connection, key: ServiceKey, why: &str, now: Timestamp) -> DbResult<bool> {
    let (blueprint, number) = service(key);
    let of = params![blueprint, number];
    if db.execute("DELETE FROM workloads WHERE blueprint = ?1 AND service = ?2", of)? == 0 {
        return Ok(false);
    }
    events::forget(db, key)?;
    db.execute("DELETE FROM workload_updates WHERE blueprint = ?1 AND service = ?2", of)?;
    db.execute("DELETE FROM workload_versions WHERE blueprint = ?1 AND service = ?2", of)?;
    audit::append(db, AuditEvent::new(AuditKind::WorkloadRemove, key, why), now)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_node_of_a_replica_that_is_shown_is_kept_with_its_generation() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let change = WorkloadChange {
            service: ServiceKey { blueprint: u64::MAX, service: 42 },
            document: "{}".to_owned(),
            nodes: BTreeSet::new(),
            keystore: None,
            replaces: None,
            by: None,
            summary: String::new(),
            now: Timestamp::from_millis(1_800_000_000_000),
        };
        let first = store.set_workload(change.clone()).await.unwrap();
        let node = Some(AgentId::from_bytes([2; 16]));
        store.keep_node(first.service, first.generation - 1, node).await.unwrap();
        assert_eq!(store.list_workloads().await.unwrap(), std::slice::from_ref(&first), "of an earlier one");
        store.keep_node(first.service, first.generation, node).await.unwrap();
        drop(store);
        let store = SqliteStore::open(dir.path()).unwrap();
        assert_eq!(store.list_workloads().await.unwrap(), [WorkloadRecord { node, ..first.clone() }]);
        // The operator gives it anew: it stays there.
        assert_eq!(store.set_workload(change).await.unwrap().node, node);
        let record = store.list_workloads().await.unwrap().remove(0);
        store.keep_node(first.service, record.generation, None).await.unwrap();
        assert_eq!(store.list_workloads().await.unwrap()[0].node, None);
    }
}
