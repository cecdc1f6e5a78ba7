//! Journals of workloads.

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{EventKind, HUB_ROWS, NODE_ROWS, WINDOW, WorkloadEvent};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::audit;
use crate::convert::{read_service, read_time, service, time};
use crate::error::{DbError, DbResult};

/// Moves that count for the hour after them.
const COUNTED: [EventKind; 2] = [EventKind::FailOver, EventKind::Refused];

const COLUMNS: &str = "blueprint, service, generation, at, node, kind, reason";

/// Writes a row that is not there yet, and forgets the oldest of its service that are too many.
pub(super) fn append(db: &Connection, event: &WorkloadEvent, now: Timestamp) -> DbResult<()> {
    if is_known(db, event, now)? {
        return Ok(());
    }
    let (blueprint, number) = service(event.service);
    let is_of_hub = event.kind.is_of_hub();
    let sql = "INSERT INTO workload_events (blueprint, service, generation, at, node, kind, of_hub, reason) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let values = params![
        blueprint,
        number,
        generation(event),
        time(event.at),
        event.node.as_ref().map(|node| *node.as_bytes()),
        event.kind.label(),
        is_of_hub,
        event.reason,
    ];
    db.execute(sql, values)?;
    let most = i64::try_from(if is_of_hub { HUB_ROWS } else { NODE_ROWS }).unwrap_or(i64::MAX);
    // Moves that still count stay, however many rows come after them.
    let sql = "DELETE FROM workload_events WHERE blueprint = ?1 AND service = ?2 AND of_hub = ?3 \
               AND NOT (kind IN (?5, ?7) AND at > ?6) AND id <= \
               (SELECT id FROM workload_events WHERE blueprint = ?1 AND service = ?2 AND of_hub = ?3 \
                ORDER BY id DESC LIMIT 1 OFFSET ?4)";
    let [moved, refused] = COUNTED.map(EventKind::label);
    let values = params![blueprint, number, is_of_hub, most, moved, time(window_before(now)), refused];
    db.execute(sql, values)?;
    if event.kind == EventKind::Degraded {
        audit::append(db, AuditEvent::new(AuditKind::WorkloadDegrade, event.service, &event.reason), now)?;
    }
    Ok(())
}

/// Whether a node told it already, or it was decided already.
fn is_known(db: &Connection, event: &WorkloadEvent, now: Timestamp) -> DbResult<bool> {
    let (blueprint, number) = service(event.service);
    if event.kind == EventKind::Degraded {
        let sql = "SELECT kind, generation FROM workload_events WHERE blueprint = ?1 AND service = ?2 \
                   AND (of_hub = 1 OR kind = 'settled') ORDER BY id DESC LIMIT 1";
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
        let last = db.query_row(sql, params![blueprint, number], read).optional()?;
        if last == Some((event.kind.label().to_owned(), generation(event))) {
            return Ok(true);
        }
        // Once in an hour, whatever its node says in between: each is a row of the audit log.
        let sql = "SELECT 1 FROM workload_events WHERE blueprint = ?1 AND service = ?2 AND of_hub = 1 \
                   AND kind = ?3 AND at > ?4 AND at <= ?5 LIMIT 1";
        let values = params![blueprint, number, event.kind.label(), time(window_before(now)), time(now)];
        return Ok(db.query_row(sql, values, |_| Ok(())).optional()?.is_some());
    }
    if event.kind.is_of_hub() {
        return Ok(false);
    }
    let sql = "SELECT 1 FROM workload_events WHERE blueprint = ?1 AND service = ?2 AND of_hub = 0 \
               AND generation = ?3 AND node IS ?4 AND at >= ?5 LIMIT 1";
    let node = event.node.as_ref().map(|node| *node.as_bytes());
    let values = params![blueprint, number, generation(event), node, time(event.at)];
    Ok(db.query_row(sql, values, |_| Ok(())).optional()?.is_some())
}

/// The journal of a service, oldest first.
pub(super) fn of(db: &Connection, key: ServiceKey) -> DbResult<Vec<WorkloadEvent>> {
    let (blueprint, number) = service(key);
    let sql =
        format!("SELECT {COLUMNS} FROM workload_events WHERE blueprint = ?1 AND service = ?2 ORDER BY id");
    list(db, &sql, params![blueprint, number])
}

/// Moves for the health of workloads, and off nodes that could not run them, since then; oldest first.
pub(super) fn fail_overs(db: &Connection, since: Timestamp) -> DbResult<Vec<WorkloadEvent>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM workload_events WHERE of_hub = 1 AND kind IN (?1, ?3) AND at >= ?2 ORDER BY id"
    );
    let [moved, refused] = COUNTED.map(EventKind::label);
    list(db, &sql, params![moved, time(since), refused])
}

/// Forgets the journal of a service.
pub(super) fn forget(db: &Connection, key: ServiceKey) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let sql = "DELETE FROM workload_events WHERE blueprint = ?1 AND service = ?2";
    db.execute(sql, params![blueprint, number])?;
    Ok(())
}

fn list(db: &Connection, sql: &str, values: impl rusqlite::Params) -> DbResult<Vec<WorkloadEvent>> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(values)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(read(row)?);
    }
    Ok(events)
}

fn read(row: &Row<'_>) -> DbResult<WorkloadEvent> {
    let kind: String = row.get(5)?;
    let generation: i64 = row.get(2)?;
    let damaged = |what: String| DbError::Damaged(format!("the journal of a workload has the {what}"));
    Ok(WorkloadEvent {
        service: read_service(row, 0)?,
        generation: u64::try_from(generation).map_err(|_| damaged(format!("generation {generation}")))?,
        at: read_time(row, 3)?,
        node: row.get::<_, Option<[u8; 16]>>(4)?.map(AgentId::from_bytes),
        kind: EventKind::find(&kind).ok_or_else(|| damaged(format!("kind {kind:?}")))?,
        reason: row.get(6)?,
    })
}

/// Where the window begins in which moves count.
fn window_before(now: Timestamp) -> Timestamp {
    let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_sub(window))
}

fn generation(event: &WorkloadEvent) -> i64 {
    i64::try_from(event.generation).unwrap_or(i64::MAX)
}
