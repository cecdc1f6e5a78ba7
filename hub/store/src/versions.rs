//! Versions of workloads: documents that were run.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{
    ThrownAway, Version, VersionOutcome, WorkloadChange, WorkloadRecord,
};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::convert::{read_service, read_text, read_time, service, time};
use crate::error::DbResult;
use crate::workloads::{find as find_workload, nodes_text, read_nodes};
use crate::{audit, updates};

const COLUMNS: &str = "blueprint, service, number, document, nodes, keystore, made_at, made_by, strategy, repeats, \
                       outcome, reason, decided_at";

/// All of a service, the newest first.
pub(crate) fn list(db: &Connection, key: ServiceKey) -> DbResult<Vec<Version>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM workload_versions WHERE blueprint = ?1 AND service = ?2 ORDER BY number DESC"
    );
    let mut statement = db.prepare(&sql)?;
    let (blueprint, number) = service(key);
    let mut rows = statement.query(params![blueprint, number])?;
    let mut versions = Vec::new();
    while let Some(row) = rows.next()? {
        versions.push(read(row)?);
    }
    Ok(versions)
}

fn read(row: &Row<'_>) -> DbResult<Version> {
    Ok(Version {
        service: read_service(row, 0)?,
        number: row.get(2)?,
        document: row.get(3)?,
        nodes: read_nodes(row, 4)?,
        keystore: row.get(5)?,
        made_at: read_time(row, 6)?,
        by: row.get(7)?,
        strategy: row.get(8)?,
        repeats: row.get(9)?,
        outcome: read_text(row, 10)?,
        reason: row.get(11)?,
        decided_at: read_time(row, 12)?,
    })
}

/// One of a service.
pub(crate) fn find(db: &Connection, key: ServiceKey, number: u32) -> DbResult<Option<Version>> {
    Ok(list(db, key)?.into_iter().find(|version| version.number == number))
}

/// The number of the next version; none is given twice while the service is there.
pub(crate) fn next_number(db: &Connection, record: Option<&WorkloadRecord>) -> DbResult<u32> {
    let Some(record) = record else { return Ok(1) };
    let (blueprint, number) = service(record.service);
    let sql = "SELECT max(number) FROM workload_versions WHERE blueprint = ?1 AND service = ?2";
    let last: Option<u32> =
        db.query_row(sql, params![blueprint, number], |row| row.get(0)).optional()?.flatten();
    Ok(last.unwrap_or(0).max(record.version).saturating_add(1))
}

/// Notes the version that a change makes, where it makes one; gives its number.
pub(crate) fn of_change(
    db: &Connection,
    before: Option<&WorkloadRecord>,
    change: &WorkloadChange,
) -> DbResult<u32> {
    let is_same = |record: &&WorkloadRecord| {
        (&record.document, &record.nodes, &record.keystore)
            == (&change.document, &change.nodes, &change.keystore)
    };
    if let Some(same) = before.filter(is_same) {
        return Ok(same.version);
    }
    let number = next_number(db, before)?;
    let Some(by) = &change.by else { return Ok(number) };
    if let Some(before) = before {
        decide(db, (before.service, before.version), VersionOutcome::Replaced, "", change.now)?;
    }
    let version = Version {
        service: change.service,
        number,
        document: change.document.clone(),
        nodes: change.nodes.clone(),
        keystore: change.keystore.clone(),
        made_at: change.now,
        by: by.clone(),
        strategy: "run".to_owned(),
        repeats: None,
        outcome: VersionOutcome::Current,
        reason: String::new(),
        decided_at: change.now,
    };
    add(db, &version)?;
    Ok(number)
}

/// Adds a version.
pub(crate) fn add(db: &Connection, version: &Version) -> DbResult<()> {
    let (blueprint, number) = service(version.service);
    let sql = format!(
        "INSERT INTO workload_versions ({COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
    );
    let values = params![
        blueprint,
        number,
        version.number,
        version.document,
        nodes_text(&version.nodes),
        version.keystore,
        time(version.made_at),
        version.by,
        version.strategy,
        version.repeats,
        version.outcome.label(),
        version.reason,
        time(version.decided_at),
    ];
    db.execute(&sql, values)?;
    Ok(())
}

/// A version among those of its service.
struct Numbered {
    number: u32,
    repeats: Option<u32>,
    has_served: bool,
}

/// Lets the oldest go where they are too many, but for what is [`spared`]. Says which went.
pub(crate) fn trim(db: &Connection, keep: usize, now: Timestamp) -> DbResult<ThrownAway> {
    let sql = "SELECT blueprint, service, number, repeats, outcome FROM workload_versions \
               ORDER BY blueprint, service, number";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut all: BTreeMap<ServiceKey, Vec<Numbered>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let has_served = read_text::<VersionOutcome>(row, 4)?.has_served();
        let version = Numbered { number: row.get(2)?, repeats: row.get(3)?, has_served };
        all.entry(read_service(row, 0)?).or_default().push(version);
    }
    let mut gone = Vec::new();
    for (key, versions) in all {
        let many = versions.len().saturating_sub(keep);
        if many == 0 {
            continue;
        }
        let spared = spared(db, key, &versions)?;
        let numbers = versions.iter().map(|version| version.number);
        let old: Vec<u32> = numbers.filter(|number| !spared.contains(number)).take(many).collect();
        if old.is_empty() {
            continue;
        }
        let (blueprint, number) = service(key);
        for old in &old {
            let sql = "DELETE FROM workload_versions WHERE blueprint = ?1 AND service = ?2 AND number = ?3";
            db.execute(sql, params![blueprint, number, old])?;
        }
        let texts: Vec<String> = old.iter().map(u32::to_string).collect();
        let detail = format_args!("{keep} versions are kept, thrown away: {}", texts.join(", "));
        audit::append(db, AuditEvent::new(AuditKind::WorkloadForget, key, detail), now)?;
        gone.push((key, old));
    }
    Ok(gone)
}

/// Versions of a service that stay, however few are to be kept: what serves, both versions of an update and the one that it goes
/// back to, and the one that served last before, where a rollback goes that names none. `versions` are all, the oldest first.
fn spared(db: &Connection, key: ServiceKey, versions: &[Numbered]) -> DbResult<BTreeSet<u32>> {
    let serving = find_workload(db, key)?.map(|record| record.version);
    let mut spared: BTreeSet<u32> = serving.into_iter().collect();
    if let Some(update) = updates::get(db, key)? {
        spared.extend([update.from, update.to]);
        let next = versions.iter().find(|version| version.number == update.to);
        spared.extend(next.and_then(|version| version.repeats));
    }
    let mut earlier = versions.iter().filter(|version| Some(version.number) < serving && version.has_served);
    spared.extend(earlier.next_back().map(|version| version.number));
    Ok(spared)
}

/// Notes what became of a version; nothing where it is not kept.
pub(crate) fn decide(
    db: &Connection,
    (key, version): (ServiceKey, u32),
    outcome: VersionOutcome,
    reason: &str,
    now: Timestamp,
) -> DbResult<()> {
    let (blueprint, number) = service(key);
    let sql = "UPDATE workload_versions SET outcome = ?4, reason = ?5, decided_at = ?6 \
               WHERE blueprint = ?1 AND service = ?2 AND number = ?3";
    db.execute(sql, params![blueprint, number, version, outcome.label(), reason, time(now)])?;
    Ok(())
}
