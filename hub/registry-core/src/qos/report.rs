//! The month of a service.

mod text;

use blueprint_common_types::{ServiceKey, Timestamp};
use serde::Serialize;

use super::{Budget, Month, Objective, QosRows, Row, Subject, percent};

pub use text::{percent_text, seconds_text};

/// What is said of a span of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its length in milliseconds.
    pub span_ms: u64,
    /// What the hub saw up of it.
    pub up_ms: u64,
    /// And down.
    pub down_ms: u64,
    /// The rest: the hub did not run, or could not say. It counts neither as up nor as down.
    pub unknown_ms: u64,
    /// Share of what was seen that was up, in thousandths of a percent, rounded down; `None` where nothing was seen.
    pub availability: Option<u64>,
    /// Share of the span that was seen, the same way.
    pub coverage: Option<u64>,
    /// Samples of its processes.
    pub samples: u64,
    /// Mean share of one processor in percent.
    pub cpu_percent: f32,
    /// The largest.
    pub cpu_most_percent: f32,
    /// Mean resident memory of one target in bytes.
    pub memory_bytes: u64,
    /// The most.
    pub memory_most_bytes: u64,
}

/// One day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportDay {
    /// Such as `2026-10-07`.
    pub day: String,
    /// What is said of it.
    #[serde(flatten)]
    pub line: Line,
}

/// Whether the objective was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What was seen reached it.
    Met,
    /// It did not.
    Missed,
    /// Nothing was seen.
    NotSeen,
}

/// The month of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Identity of the hub that saw it.
    pub hub: String,
    /// Which service.
    pub service: String,
    /// Which month, of UTC.
    pub month: Month,
    /// When this was made.
    pub made_at: String,
    /// From when on it counts: the start of the month, or when the hub saw the service first.
    pub from: String,
    /// Until when: the end of the month, or when this was made.
    pub until: String,
    /// Whether the month was over.
    pub is_whole: bool,
    /// What it was to reach, in percent.
    pub objective: Objective,
    /// Whether it did.
    pub verdict: Verdict,
    /// How much of the time that it may be down is used, of the whole span.
    pub budget: Budget,
    /// The whole span.
    pub total: Line,
    /// Each day of it.
    pub days: Vec<ReportDay>,
}

impl Report {
    /// Puts it together from the hours of the month, at `now`. `begins` is when the service was seen first.
    #[must_use]
    pub fn new(
        hub: &str,
        (service, month): (ServiceKey, Month),
        (rows, begins): (&QosRows, Option<Timestamp>),
        objective: Objective,
        now: Timestamp,
    ) -> Self {
        let until = month.end().min(now).max(month.start());
        let from = begins.unwrap_or(until).clamp(month.start(), until);
        let days = month.days().filter(|(_, start, end)| *end > from && *start < until);
        let days: Vec<ReportDay> = days
            .map(|(number, start, end)| ReportDay {
                day: format!("{month}-{number:02}"),
                line: line(rows, start.max(from), end.min(until), (start, end)),
            })
            .collect();
        let total = line(rows, from, until, (month.start(), month.end()));
        let verdict = match total.availability {
            None => Verdict::NotSeen,
            Some(share) if share >= objective.thousandths().into() => Verdict::Met,
            Some(_) => Verdict::Missed,
        };
        Self {
            hub: hub.to_owned(),
            service: service.to_string(),
            month,
            made_at: now.to_string(),
            from: from.to_string(),
            until: until.to_string(),
            is_whole: now >= month.end(),
            objective,
            verdict,
            budget: objective.budget(total.span_ms, total.down_ms),
            total,
            days,
        }
    }
}

/// What the hours that begin in `within` say of the span.
fn line(rows: &QosRows, from: Timestamp, until: Timestamp, within: (Timestamp, Timestamp)) -> Line {
    let (mut seen, mut used) = (Row::default(), Row::default());
    for ((at, subject), row) in rows {
        if *at < within.0 || *at >= within.1 {
            continue;
        }
        match subject {
            Subject::Service(_) => seen.join(row),
            Subject::Target(_) => used.join(row),
            Subject::Node(_) => {}
        }
    }
    // An hour is counted whole: the first may have begun before the service did.
    let both = seen.seen.both();
    let span_ms = until.as_millis().saturating_sub(from.as_millis()).max(both);
    Line {
        span_ms,
        up_ms: seen.seen.up,
        down_ms: seen.seen.down,
        unknown_ms: span_ms - both,
        availability: share(seen.seen.up, both),
        coverage: share(both, span_ms),
        samples: used.samples,
        cpu_percent: percent(used.mean(used.cpu_sum)),
        cpu_most_percent: percent(used.cpu_most),
        memory_bytes: used.mean(used.memory_sum),
        memory_most_bytes: used.memory_most,
    }
}

/// `part` of `whole` in thousandths of a percent, rounded down.
fn share(part: u64, whole: u64) -> Option<u64> {
    let share = (u128::from(part) * 100_000).checked_div(u128::from(whole))?;
    u64::try_from(share).ok()
}
