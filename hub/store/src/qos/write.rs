//! A batch on its way into minutes and hours.

use std::collections::BTreeMap;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::{Batch, Mark, Seen, Step, Subject, Written};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::past;
use super::rows::{Table, agent_of, named};
use crate::convert::read_agent_id;
use crate::error::DbResult;

/// Most subjects that are known at once.
const MAX_SUBJECTS: u32 = 50_000;

/// Most of one agent: a machine that offers ever new ports takes the room of no other.
const MAX_SUBJECTS_OF_AGENT: u32 = 512;

/// What is new of one minute of one subject.
#[derive(Default)]
struct News {
    marks: Vec<Mark>,
    seen: Seen,
}

/// Stores a batch.
pub(super) fn write(db: &Connection, batch: &Batch) -> DbResult<Written> {
    let mut news: BTreeMap<(Subject, Timestamp), News> = BTreeMap::new();
    for (subject, mark) in &batch.marks {
        news.entry((*subject, Step::Minute.of(mark.at))).or_default().marks.push(*mark);
    }
    for (key, seen) in &batch.seen {
        news.entry(*key).or_default().seen.add(*seen);
    }
    let mut tables = Tables {
        minutes: Table::prepare(db, Step::Minute)?,
        hours: Table::prepare(db, Step::Hour)?,
        subject: db.prepare(SUBJECT)?,
        many: None,
    };
    let mut first: BTreeMap<ServiceKey, Timestamp> = BTreeMap::new();
    let mut written = Written::default();
    let mut known: Option<(Subject, Option<i64>)> = None;
    for ((subject, minute), news) in news {
        let id = match known {
            Some((last, id)) if last == subject => id,
            Some(_) | None => tables.subject(db, subject)?,
        };
        known = Some((subject, id));
        match id {
            Some(id) => {
                if let Subject::Service(key) = subject {
                    // Minutes of a subject come in their order.
                    first.entry(key).or_insert(minute);
                }
                tables.add(id, minute, &news, &mut written)?;
            }
            None => {
                let many = u64::try_from(news.marks.len()).unwrap_or(u64::MAX);
                written.too_many = written.too_many.saturating_add(many.max(1));
            }
        }
    }
    for (key, minute) in first {
        past::seen(db, key, minute)?;
    }
    Ok(written)
}

/// What a batch is written with.
struct Tables<'db> {
    minutes: Table<'db>,
    hours: Table<'db>,
    subject: Statement<'db>,
    /// How many subjects there are, counted when the first unknown one comes.
    many: Option<Many>,
}

/// How many subjects are known, of all and of each agent.
#[derive(Default)]
struct Many {
    all: u32,
    of_agent: BTreeMap<AgentId, u32>,
}

impl Many {
    fn count(db: &Connection) -> DbResult<Self> {
        let mut many = Self {
            all: db.query_row("SELECT count(*) FROM qos_subjects", [], |row| row.get(0))?,
            ..Self::default()
        };
        let mut statement =
            db.prepare("SELECT agent, count(*) FROM qos_subjects WHERE kind IN (1, 2) GROUP BY agent")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            many.of_agent.insert(read_agent_id(row, 0)?, row.get(1)?);
        }
        Ok(many)
    }

    /// Counts one more; false where there is no room.
    fn take(&mut self, subject: Subject) -> bool {
        if self.all >= MAX_SUBJECTS {
            return false;
        }
        if let Some(agent) = agent_of(subject) {
            let own = self.of_agent.entry(agent).or_default();
            if *own >= MAX_SUBJECTS_OF_AGENT {
                return false;
            }
            *own = own.saturating_add(1);
        }
        self.all = self.all.saturating_add(1);
        true
    }
}

const SUBJECT: &str = "SELECT id FROM qos_subjects \
                       WHERE kind = ?1 AND blueprint = ?2 AND service = ?3 AND agent = ?4 AND port = ?5";

impl Tables<'_> {
    /// Brings what is new into a minute and into its hour.
    fn add(&mut self, id: i64, minute: Timestamp, news: &News, written: &mut Written) -> DbResult<()> {
        let hour = Step::Hour.of(minute);
        let mut of_minute = self.minutes.load(id, minute)?;
        let mut of_hour = self.hours.load(id, hour)?;
        for mark in &news.marks {
            // The minute alone knows what is counted already.
            if of_minute.take(mark) {
                of_hour.add(mark);
                written.taken = written.taken.saturating_add(1);
            } else {
                written.repeated = written.repeated.saturating_add(1);
            }
        }
        let seen = of_minute.see(news.seen, Step::Minute);
        of_hour.see(seen, Step::Hour);
        self.minutes.save(id, minute, &of_minute)?;
        self.hours.save(id, hour, &of_hour)
    }

    /// Number of a subject, made where it has none; `None` where as many are known as may be.
    fn subject(&mut self, db: &Connection, subject: Subject) -> DbResult<Option<i64>> {
        let (kind, blueprint, number, agent, port) = named(subject);
        let values = params![kind, blueprint, number, agent, port];
        let found = self.subject.query_row(values, |row| row.get(0)).optional()?;
        if found.is_some() {
            return Ok(found);
        }
        let mut many = match self.many.take() {
            Some(many) => many,
            None => Many::count(db)?,
        };
        let is_room = many.take(subject);
        self.many = Some(many);
        if !is_room {
            return Ok(None);
        }
        let sql =
            "INSERT INTO qos_subjects (kind, blueprint, service, agent, port) VALUES (?1, ?2, ?3, ?4, ?5)";
        db.execute(sql, params![kind, blueprint, number, agent, port])?;
        Ok(Some(db.last_insert_rowid()))
    }
}
