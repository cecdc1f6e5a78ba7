//! What is not stored yet.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use blueprint_common_types::{AgentId, MachineSample, ServiceSample, TargetKey, Timestamp, TunnelSample};

use super::{Mark, Seen, Step, Subject};
use crate::{MAX_CLOCK_SKEW, MAX_TARGETS_PER_AGENT};

/// Samples that may wait to be stored; where more come, the oldest go.
pub const MAX_MARKS: usize = 200_000;

/// Seen minutes that may wait.
const MAX_SEEN: usize = 200_000;

/// What is stored in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Samples.
    pub marks: VecDeque<(Subject, Mark)>,
    /// Time that the hub saw, by the minute.
    pub seen: BTreeMap<(Subject, Timestamp), Seen>,
    /// Samples from before count in minutes and hours, and are not stored as single ones: they would be deleted at once.
    pub samples_from: Timestamp,
}

impl Batch {
    /// The same where single samples are kept for `age`.
    #[must_use]
    pub fn keeping_samples(self, age: Duration, now: Timestamp) -> Self {
        let epoch = Timestamp::default();
        Self { samples_from: epoch.plus(now.since(epoch.plus(age))), ..self }
    }

    /// True where there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.seen.is_empty()
    }
}

/// Why a sample, or a seen minute, was left out; the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// It was taken before the oldest minute that is kept.
    TooOld,
    /// It was taken later than it is now, by more than clocks may be apart.
    FromTheFuture,
    /// As many wait to be stored as may.
    Full,
}

impl LeftOut {
    /// Name of the reason.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::FromTheFuture => "from_the_future",
            Self::Full => "full",
        }
    }
}

/// Gathers what is to be stored next. It is told the time, and takes memory only for what waits.
#[derive(Debug, Default)]
pub struct Book {
    waiting: Batch,
}

impl Book {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a report of an agent, which may be as late as `oldest`; `is_late` says that the agent could not give it when it took it.
    ///
    /// # Errors
    ///
    /// Why nothing of it is kept, or, where it is [`LeftOut::Full`], that older ones went for it.
    pub fn note(
        &mut self,
        agent: AgentId,
        at: Timestamp,
        (machine, tunnel, services): (&MachineSample, &TunnelSample, &[ServiceSample]),
        (oldest, is_late): (Duration, bool),
        now: Timestamp,
    ) -> Result<(), LeftOut> {
        if now.since(at) > oldest {
            return Err(LeftOut::TooOld);
        }
        if at.since(now) > MAX_CLOCK_SKEW {
            return Err(LeftOut::FromTheFuture);
        }
        let of_machine = Mark { is_late, ..Mark::of_machine(at, machine, tunnel) };
        self.waiting.marks.push_back((Subject::Node(agent), of_machine));
        for sample in services.iter().take(MAX_TARGETS_PER_AGENT) {
            let key = TargetKey { service: sample.service, agent, port: sample.port };
            let of_service = Mark { is_late, ..Mark::of_service(at, sample) };
            self.waiting.marks.push_back((Subject::Target(key), of_service));
        }
        self.trim()
    }

    /// Adds seen time that ends at `now`, to the minutes in which it passed.
    ///
    /// # Errors
    ///
    /// Where too many minutes wait.
    pub fn see(
        &mut self,
        subject: Subject,
        is_up: bool,
        passed: Duration,
        now: Timestamp,
    ) -> Result<(), LeftOut> {
        let mut left = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let mut end = now.as_millis();
        while left > 0 && end > 0 {
            // The last millisecond that is not counted yet lies in this minute.
            let minute = Step::Minute.of(Timestamp::from_millis(end - 1));
            let part = left.min(end - minute.as_millis());
            let key = (subject, minute);
            if self.waiting.seen.len() >= MAX_SEEN && !self.waiting.seen.contains_key(&key) {
                return Err(LeftOut::Full);
            }
            let seen = if is_up { Seen { up: part, down: 0 } } else { Seen { up: 0, down: part } };
            self.waiting.seen.entry(key).or_default().add(seen);
            left -= part;
            end -= part;
        }
        Ok(())
    }

    /// Takes out what waits.
    pub fn take(&mut self) -> Batch {
        std::mem::take(&mut self.waiting)
    }

    /// Puts back what could not be stored.
    ///
    /// # Errors
    ///
    /// Where there is too much by now, and the oldest went.
    pub fn put_back(&mut self, mut batch: Batch) -> Result<(), LeftOut> {
        batch.marks.append(&mut self.waiting.marks);
        for (key, seen) in std::mem::take(&mut self.waiting.seen) {
            batch.seen.entry(key).or_default().add(seen);
        }
        self.waiting = batch;
        self.trim()
    }

    fn trim(&mut self) -> Result<(), LeftOut> {
        let many = self.waiting.marks.len().saturating_sub(MAX_MARKS);
        if many == 0 && self.waiting.seen.len() <= MAX_SEEN {
            return Ok(());
        }
        self.waiting.marks.drain(..many);
        while self.waiting.seen.len() > MAX_SEEN {
            let oldest = self.waiting.seen.keys().map(|(_, minute)| *minute).min().unwrap_or_default();
            self.waiting.seen.retain(|(_, minute), _| *minute > oldest);
        }
        Err(LeftOut::Full)
    }
}
