//! Rows as they stand in the tables.

use std::collections::BTreeSet;

use blueprint_common_types::{AgentId, TargetKey, Timestamp};
use blueprint_hub_registry_core::qos::{Last, QosRows, Row, Seen, Step, Subject};
use rusqlite::{Connection, OptionalExtension, Row as DbRow, Statement, params};

use super::{column, number};
use crate::convert::{read_agent_id, read_service, read_time, service, time};
use crate::error::{DbError, DbResult};

/// Most subjects of one answer.
const MAX_READ: u32 = 1000;

/// Machines whose own rows are read beside those of a service.
const MAX_MACHINES: usize = 8;

/// Columns of a row, in the order of [`read`] and [`Table::save`].
pub(super) const COLUMNS: &str = "up, down, taken, samples, healthy, unhealthy, cpu_sum, cpu_most, memory_sum, memory_most, delay_sum, \
                       delay_most, loss_sum, last_at, memory_total, disk, disk_total, rx, tx, late_up, late_down, unreached";

/// The table of a step.
pub(super) const fn table(step: Step) -> &'static str {
    match step {
        Step::Sample => "qos_samples",
        Step::Minute => "qos_minutes",
        Step::Hour => "qos_hours",
    }
}

/// Kind, blueprint, service, agent and port.
pub(super) type Named = (u8, i64, i64, Vec<u8>, u16);

/// A subject as columns.
pub(super) fn named(subject: Subject) -> Named {
    match subject {
        Subject::Service(key) => {
            let (blueprint, number) = service(key);
            (0, blueprint, number, Vec::new(), 0)
        }
        Subject::Target(TargetKey { service: key, agent, port }) => {
            let (blueprint, number) = service(key);
            (1, blueprint, number, agent.as_bytes().to_vec(), port)
        }
        Subject::Node(agent) => (2, 0, 0, agent.as_bytes().to_vec(), 0),
    }
}

/// The subject whose columns begin at `first`.
fn read_subject(row: &DbRow<'_>, first: usize) -> DbResult<Subject> {
    let agent = || read_agent_id(row, first + 3);
    Ok(match row.get::<_, u8>(first)? {
        0 => Subject::Service(read_service(row, first + 1)?),
        1 => Subject::Target(TargetKey {
            service: read_service(row, first + 1)?,
            agent: agent()?,
            port: row.get(first + 4)?,
        }),
        2 => Subject::Node(agent()?),
        kind => return Err(DbError::Damaged(format!("{kind} is no kind of a subject"))),
    })
}

/// The row whose columns begin at `first`.
pub(super) fn read(row: &DbRow<'_>, first: usize) -> DbResult<Row> {
    let at = |index: usize| number(row, first + index);
    Ok(Row {
        seen: Seen { up: at(0)?, down: at(1)? },
        taken: row.get::<_, i64>(first + 2)?.cast_unsigned(),
        samples: at(3)?,
        healthy: at(4)?,
        unhealthy: at(5)?,
        cpu_sum: at(6)?,
        cpu_most: at(7)?,
        memory_sum: at(8)?,
        memory_most: at(9)?,
        delay_sum: at(10)?,
        delay_most: at(11)?,
        loss_sum: at(12)?,
        last: Last {
            at: read_time(row, first + 13)?,
            memory_total: at(14)?,
            disk: at(15)?,
            disk_total: at(16)?,
            rx: at(17)?,
            tx: at(18)?,
        },
        late: Seen { up: at(19)?, down: at(20)? },
        unreached: at(21)?,
    })
}

/// The statements that read and write the rows of one step, prepared once for a batch.
pub(super) struct Table<'db> {
    load: Statement<'db>,
    save: Statement<'db>,
}

impl<'db> Table<'db> {
    /// Prepares them.
    pub(super) fn prepare(db: &'db Connection, step: Step) -> DbResult<Self> {
        let name = table(step);
        let load = format!("SELECT {COLUMNS} FROM {name} WHERE subject = ?1 AND at = ?2");
        let save = format!(
            "INSERT OR REPLACE INTO {name} (subject, at, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
             ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)"
        );
        Ok(Self { load: db.prepare(&load)?, save: db.prepare(&save)? })
    }

    /// One row; empty where there is none.
    pub(super) fn load(&mut self, subject: i64, at: Timestamp) -> DbResult<Row> {
        let mut rows = self.load.query(params![subject, time(at)])?;
        rows.next()?.map_or_else(|| Ok(Row::default()), |row| read(row, 0))
    }

    /// Stores one row in place of the one before.
    pub(super) fn save(&mut self, subject: i64, at: Timestamp, row: &Row) -> DbResult<()> {
        let values = params![
            subject,
            time(at),
            column(row.seen.up),
            column(row.seen.down),
            row.taken.cast_signed(),
            column(row.samples),
            column(row.healthy),
            column(row.unhealthy),
            column(row.cpu_sum),
            column(row.cpu_most),
            column(row.memory_sum),
            column(row.memory_most),
            column(row.delay_sum),
            column(row.delay_most),
            column(row.loss_sum),
            time(row.last.at),
            column(row.last.memory_total),
            column(row.last.disk),
            column(row.last.disk_total),
            column(row.last.rx),
            column(row.last.tx),
            column(row.late.up),
            column(row.late.down),
            column(row.unreached),
        ];
        self.save.execute(values)?;
        Ok(())
    }
}

/// Rows of a service with its targets and their machines, or of a machine; where they are many, of fewer moments.
pub(super) fn of(
    db: &Connection,
    of: Subject,
    step: Step,
    (from, until): (Timestamp, Timestamp),
    most: u32,
) -> DbResult<QosRows> {
    let mut subjects = subjects(db, of)?;
    let name = table(step);
    let end = |order: &str| {
        format!(
            "SELECT at FROM {name} WHERE subject = ?1 AND at >= ?2 AND at < ?3 ORDER BY at {order} LIMIT 1"
        )
    };
    let (mut first, mut last) = (db.prepare(&end("ASC"))?, db.prepare(&end("DESC"))?);
    let mut ends: Option<(Timestamp, Timestamp)> = None;
    for (id, _) in &subjects {
        let values = params![id, time(from), time(until)];
        let Some(oldest) = first.query_row(values, |row| Ok(read_time(row, 0))).optional()? else { continue };
        let newest = last.query_row(values, |row| Ok(read_time(row, 0)))??;
        let oldest = oldest?;
        let (start, end) = ends.unwrap_or((oldest, newest));
        ends = Some((start.min(oldest), end.max(newest)));
    }
    let Some((oldest, newest)) = ends else { return Ok(QosRows::new()) };
    if matches!(of, Subject::Service(_)) {
        let machines = machines(db, &subjects)?;
        subjects.extend(machines);
    }
    if step == Step::Sample {
        return newest_samples(db, &subjects, (oldest, newest), most);
    }
    let moments = (newest.as_millis() - oldest.as_millis()) / step.millis() + 1;
    let rows = moments.saturating_mul(u64::try_from(subjects.len()).unwrap_or(u64::MAX));
    let every = rows.div_ceil(u64::from(most.max(1))).max(1);
    let sql = format!("SELECT at, {COLUMNS} FROM {name} WHERE subject = ?1 AND at >= ?2 AND at <= ?3");
    let mut statement = db.prepare(&sql)?;
    let mut found = QosRows::new();
    for (id, subject) in subjects {
        let mut read_between = |start: Timestamp, end: Timestamp| -> DbResult<()> {
            let mut rows = statement.query(params![id, time(start), time(end)])?;
            while let Some(row) = rows.next()? {
                found.insert((read_time(row, 0)?, subject), read(row, 1)?);
            }
            Ok(())
        };
        if every == 1 {
            read_between(oldest, newest)?;
            continue;
        }
        for number in (0..moments).step_by(usize::try_from(every).unwrap_or(usize::MAX)) {
            let at = Timestamp::from_millis(newest.as_millis() - number * step.millis());
            read_between(at, at)?;
        }
    }
    Ok(found)
}

/// Single samples, of which there is no telling when the next was taken: of each subject the newest.
fn newest_samples(
    db: &Connection,
    subjects: &[(i64, Subject)],
    (oldest, newest): (Timestamp, Timestamp),
    most: u32,
) -> DbResult<QosRows> {
    let each = most / u32::try_from(subjects.len()).unwrap_or(u32::MAX).max(1);
    let sql = format!(
        "SELECT at, {COLUMNS} FROM {} WHERE subject = ?1 AND at >= ?2 AND at <= ?3 ORDER BY at DESC LIMIT ?4",
        table(Step::Sample)
    );
    let mut statement = db.prepare(&sql)?;
    let mut found = QosRows::new();
    for (id, subject) in subjects {
        let mut rows = statement.query(params![id, time(oldest), time(newest), each.max(1)])?;
        while let Some(row) = rows.next()? {
            found.insert((read_time(row, 0)?, *subject), read(row, 1)?);
        }
    }
    Ok(found)
}

/// A subject and its number, of columns that begin with the number.
const SUBJECTS: &str = "SELECT id, kind, blueprint, service, agent, port FROM qos_subjects";

/// Numbers of a service, which comes first, with its targets, or of a machine.
pub(super) fn subjects(db: &Connection, of: Subject) -> DbResult<Vec<(i64, Subject)>> {
    let (kind, blueprint, number, agent, port) = named(of);
    let which = match of {
        Subject::Service(_) => {
            "kind IN (?1, 1) AND blueprint = ?2 AND service = ?3 AND (kind = 1 OR (agent = ?4 AND port = ?5))"
        }
        Subject::Target(_) | Subject::Node(_) => {
            "kind = ?1 AND blueprint = ?2 AND service = ?3 AND agent = ?4 AND port = ?5"
        }
    };
    let sql = format!("{SUBJECTS} WHERE {which} ORDER BY kind LIMIT {MAX_READ}");
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(params![kind, blueprint, number, agent, port])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, read_subject(row, 1)?));
    }
    Ok(found)
}

/// Numbers of the machines of targets, of the first few.
fn machines(db: &Connection, targets: &[(i64, Subject)]) -> DbResult<Vec<(i64, Subject)>> {
    let agents: BTreeSet<AgentId> = targets.iter().filter_map(|(_, subject)| agent_of(*subject)).collect();
    let of = |agent: &AgentId| subjects(db, Subject::Node(*agent));
    let found: Vec<_> = agents.iter().take(MAX_MACHINES).map(of).collect::<DbResult<_>>()?;
    Ok(found.concat())
}

/// The agent of a subject, where it has one.
pub(super) fn agent_of(subject: Subject) -> Option<AgentId> {
    match subject {
        Subject::Service(_) => None,
        Subject::Target(key) => Some(key.agent),
        Subject::Node(agent) => Some(agent),
    }
}
