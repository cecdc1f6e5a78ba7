//! A batch on its way into minutes and hours.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::{Batch, Mark, Row, Seen, Step, Subject, Written};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::rows::{Table, agent_of, named};
use super::{number as column_of, past};
use crate::convert::{read_agent_id, service, time};
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
        samples: Table::prepare(db, Step::Sample)?,
        subject: db.prepare(SUBJECT)?,
        samples_from: batch.samples_from,
        many: None,
    };
    let mut first: BTreeMap<ServiceKey, Timestamp> = BTreeMap::new();
    let mut written = Written::default();
    let mut late: BTreeSet<(ServiceKey, Timestamp)> = BTreeSet::new();
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
                if let Subject::Target(key) = subject
                    && news.marks.iter().any(|mark| mark.is_late)
                {
                    late.insert((key.service, minute));
                }
                tables.add((id, subject), minute, &news, &mut written)?;
            }
            None => {
                let many = u64::try_from(news.marks.len()).unwrap_or(u64::MAX);
                written.too_many = written.too_many.saturating_add(many.max(1));
            }
        }
    }
    for (key, minute) in late {
        tables.measure(db, key, minute)?;
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
    samples: Table<'db>,
    subject: Statement<'db>,
    /// Older samples are not stored as single ones.
    samples_from: Timestamp,
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

/// Checks of all targets of a service in a minute.
const CHECKS: &str = "SELECT m.healthy, m.unhealthy FROM qos_subjects s JOIN qos_minutes m ON m.subject = s.id AND m.at = ?3 \
                      WHERE s.kind = 1 AND s.blueprint = ?1 AND s.service = ?2";

const SUBJECT: &str = "SELECT id FROM qos_subjects \
                       WHERE kind = ?1 AND blueprint = ?2 AND service = ?3 AND agent = ?4 AND port = ?5";

impl Tables<'_> {
    /// Brings what is new into a minute and into its hour.
    fn add(
        &mut self,
        (id, subject): (i64, Subject),
        minute: Timestamp,
        news: &News,
        written: &mut Written,
    ) -> DbResult<()> {
        let hour = Step::Hour.of(minute);
        let mut of_minute = self.minutes.load(id, minute)?;
        let mut of_hour = self.hours.load(id, hour)?;
        for mark in &news.marks {
            // The minute alone knows what is counted already.
            if of_minute.take(mark) {
                of_hour.add(mark);
                let at = Step::Sample.of(mark.at);
                if at >= self.samples_from {
                    let mut sample = Row::default();
                    sample.add(mark);
                    self.samples.save(id, at, &sample)?;
                }
                written.taken = written.taken.saturating_add(1);
            } else {
                written.repeated = written.repeated.saturating_add(1);
            }
        }
        let seen = of_minute.see(news.seen, Step::Minute);
        of_hour.see(seen, Step::Hour);
        // A machine that took a sample ran.
        if matches!(subject, Subject::Node(_)) && news.marks.iter().any(|mark| mark.is_late) {
            of_hour.remeasure(of_minute.measure(1, 1), &of_minute);
        } else {
            of_hour.remeasure(of_minute.yield_to_seen(), &of_minute);
        }
        self.minutes.save(id, minute, &of_minute)?;
        self.hours.save(id, hour, &of_hour)
    }

    /// Gives what the hub did not see of a minute of a service to what the agents of its targets measured of it: it was up as far
    /// as its best target was.
    fn measure(&mut self, db: &Connection, key: ServiceKey, minute: Timestamp) -> DbResult<()> {
        let (blueprint, number) = service(key);
        let mut statement = db.prepare(CHECKS)?;
        let mut rows = statement.query(params![blueprint, number, time(minute)])?;
        let mut best: Option<(u64, u64)> = None;
        while let Some(row) = rows.next()? {
            let (healthy, checks) =
                (column_of(row, 0)?, column_of(row, 0)?.saturating_add(column_of(row, 1)?));
            // The larger part; parts are compared crosswise.
            let is_better = best.is_none_or(|(good, of)| {
                u128::from(healthy) * u128::from(of) > u128::from(good) * u128::from(checks)
            });
            if is_better && checks > 0 {
                best = Some((healthy, checks));
            }
        }
        drop(rows);
        let Some((healthy, checks)) = best else { return Ok(()) };
        let Some(id) = self.subject(db, Subject::Service(key))? else { return Ok(()) };
        let hour = Step::Hour.of(minute);
        let mut of_minute = self.minutes.load(id, minute)?;
        let mut of_hour = self.hours.load(id, hour)?;
        of_hour.remeasure(of_minute.measure(healthy, checks), &of_minute);
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
