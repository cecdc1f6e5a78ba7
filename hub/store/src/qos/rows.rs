//! Rows as they stand in the tables.

use blueprint_common_types::{AgentId, ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::qos::{Last, QosRows, Row, Seen, Step, Subject};
use rusqlite::{Connection, OptionalExtension, Row as DbRow, Statement, params};

use super::{column, number};
use crate::convert::{read_agent_id, read_service, read_time, service, time};
use crate::error::{DbError, DbResult};

/// Columns of a row, in the order of [`read`] and [`Table::save`].
const COLUMNS: &str = "up, down, taken, samples, healthy, unhealthy, cpu_sum, cpu_most, memory_sum, memory_most, delay_sum, \
                       delay_most, loss_sum, last_at, memory_total, disk, disk_total, rx, tx";

/// The table of a step.
pub(super) const fn table(step: Step) -> &'static str {
    match step {
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
fn read(row: &DbRow<'_>, first: usize) -> DbResult<Row> {
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
             ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)"
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
        ];
        self.save.execute(values)?;
        Ok(())
    }
}

/// The newest rows of a service with its targets, or of a machine.
pub(super) fn of(
    db: &Connection,
    of: Subject,
    step: Step,
    (from, until): (Timestamp, Timestamp),
    most: u32,
) -> DbResult<QosRows> {
    let which = match of {
        Subject::Service(_) => "kind IN (0, 1) AND blueprint = ?1 AND service = ?2",
        Subject::Target(_) | Subject::Node(_) => {
            "blueprint = ?1 AND service = ?2 AND kind = ?3 AND agent = ?4 AND port = ?5"
        }
    };
    let sql = format!(
        "SELECT kind, blueprint, service, agent, port, at, {COLUMNS} FROM qos_subjects \
         JOIN {} ON subject = id WHERE at >= ?6 AND at < ?7 AND {which} ORDER BY at DESC LIMIT ?8",
        table(step)
    );
    let (kind, blueprint, number, agent, port) = named(of);
    let mut statement = db.prepare(&sql)?;
    let values = params![blueprint, number, kind, agent, port, time(from), time(until), most];
    let mut rows = statement.query(values)?;
    let mut found = QosRows::new();
    while let Some(row) = rows.next()? {
        found.insert((read_time(row, 5)?, read_subject(row, 0)?), read(row, 6)?);
    }
    Ok(found)
}

/// Start of the oldest hour of a service.
pub(super) fn begins(db: &Connection, key: ServiceKey) -> DbResult<Option<Timestamp>> {
    let (blueprint, number) = service(key);
    let sql = "SELECT at FROM qos_subjects JOIN qos_hours ON subject = id \
               WHERE kind = 0 AND blueprint = ?1 AND service = ?2 ORDER BY at LIMIT 1";
    let found = db.query_row(sql, params![blueprint, number], |row| row.get::<_, i64>(0)).optional()?;
    let found = found.map(|at| u64::try_from(at).map(Timestamp::from_millis));
    found.transpose().map_err(|_| DbError::Damaged("an hour is before 1970".to_owned()))
}

/// The agent of a subject, where it has one.
pub(super) fn agent_of(subject: Subject) -> Option<AgentId> {
    match subject {
        Subject::Service(_) => None,
        Subject::Target(key) => Some(key.agent),
        Subject::Node(agent) => Some(agent),
    }
}
