//! The month of a service, a machine or a tunnel.

mod text;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Budget, Month, Objective, QosRows, Row, Seen, Subject, percent};

pub use text::{percent_text, seconds_text};

/// What a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportOf {
    /// A service.
    Service(ServiceKey),
    /// A machine and its name: whether it ran, as far as the hub saw it or its agent measured.
    Node(AgentId, String),
    /// The tunnel of a machine and its name: whether the hub reached it.
    Tunnel(AgentId, String),
}

impl ReportOf {
    /// One word for its kind: the name of the field and of the column that says which it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "service",
            Self::Node(..) => "node",
            Self::Tunnel(..) => "tunnel",
        }
    }

    /// Which it is, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Service(service) => service.to_string(),
            Self::Node(_, name) | Self::Tunnel(_, name) => name.clone(),
        }
    }

    /// The machine, where it is one or a tunnel.
    #[must_use]
    pub const fn agent(&self) -> Option<AgentId> {
        match self {
            Self::Service(_) => None,
            Self::Node(agent, _) | Self::Tunnel(agent, _) => Some(*agent),
        }
    }
}

impl Serialize for ReportOf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry(self.kind(), &self.name())?;
        if let Some(agent) = self.agent() {
            fields.serialize_entry("node_id", &agent.to_string())?;
        }
        fields.end()
    }
}

/// What is said of a span of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its length in milliseconds.
    pub span_ms: u64,
    /// What the hub saw up of it.
    pub up_ms: u64,
    /// And down; of a machine without [`Self::unreached_ms`].
    pub down_ms: u64,
    /// What it did not see, and agents measured up and said later. 0 for a tunnel.
    pub late_up_ms: u64,
    /// And down.
    pub late_down_ms: u64,
    /// What the hub saw down while agents measured it healthy. A service that nobody can reach is down; a machine is not, for which
    /// this counts as up. 0 for a tunnel.
    pub unreached_ms: u64,
    /// The rest: the hub did not run, or could not say, and nobody measured. It counts neither as up nor as down.
    pub unknown_ms: u64,
    /// Share of what is known that was up, in thousandths of a percent, rounded down; `None` where nothing is known.
    pub availability: Option<u64>,
    /// Share of the span that is known, the same way.
    pub coverage: Option<u64>,
    /// Samples: of a service those of its processes.
    pub samples: u64,
    /// Mean share of processors in percent: of one for a service, of all for a machine.
    pub cpu_percent: f32,
    /// The largest.
    pub cpu_most_percent: f32,
    /// Mean resident memory of one target, or memory in use of a machine, in bytes.
    pub memory_bytes: u64,
    /// The most.
    pub memory_most_bytes: u64,
    /// Mean microseconds of a round trip through the tunnel, or of a check of a target.
    pub delay_micros: u64,
    /// Mean loss of the tunnel in percent; 0 for a service.
    pub loss_percent: f32,
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

/// The month of a service, a machine or a tunnel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Identity of the hub that saw it.
    pub hub: String,
    /// Of what.
    #[serde(flatten)]
    pub of: ReportOf,
    /// Which month, of UTC.
    pub month: Month,
    /// When this was made.
    pub made_at: String,
    /// From when on it counts: the start of the month, or when the hub saw it first.
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
    /// Puts it together from the hours of the month, at `now`. `begins` is when it was seen first.
    #[must_use]
    pub fn new(
        hub: &str,
        (of, month): (ReportOf, Month),
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
                line: line(&of, rows, (start.max(from), end.min(until)), (start, end)),
            })
            .collect();
        let total = line(&of, rows, (from, until), (month.start(), month.end()));
        let verdict = match total.availability {
            None => Verdict::NotSeen,
            Some(share) if share >= objective.thousandths().into() => Verdict::Met,
            Some(_) => Verdict::Missed,
        };
        Self {
            hub: hub.to_owned(),
            of,
            month,
            made_at: now.to_string(),
            from: from.to_string(),
            until: until.to_string(),
            is_whole: now >= month.end(),
            objective,
            verdict,
            budget: objective.budget(total.span_ms, total.down_ms.saturating_add(total.late_down_ms)),
            total,
            days,
        }
    }
}

/// What the hours that begin in `within` say of the span.
fn line(
    of: &ReportOf,
    rows: &QosRows,
    (from, until): (Timestamp, Timestamp),
    within: (Timestamp, Timestamp),
) -> Line {
    let (mut all, mut used) = (Row::default(), Row::default());
    for ((_, subject), row) in rows.iter().filter(|((at, _), _)| (within.0..within.1).contains(at)) {
        match subject {
            Subject::Service(_) => all.join(row),
            Subject::Target(_) => used.join(row),
            Subject::Node(_) => {
                all.join(row);
                used.join(row);
            }
        }
    }
    let Seen { up, mut down } = all.seen;
    let (late, unreached_ms, reached) = match of {
        ReportOf::Service(_) => (all.late, all.unreached, 0),
        // It ran, and could not be reached.
        ReportOf::Node(..) => (all.late, all.unreached.min(down), all.unreached.min(down)),
        // What an agent measures while its hub is away says nothing of the tunnel.
        ReportOf::Tunnel(..) => (Seen::default(), 0, 0),
    };
    down = down.saturating_sub(reached);
    let good = up.saturating_add(late.up).saturating_add(reached);
    let known = good.saturating_add(down).saturating_add(late.down);
    // An hour is counted whole: the first may have begun before it did.
    let span_ms = until.as_millis().saturating_sub(from.as_millis()).max(known);
    Line {
        span_ms,
        up_ms: up,
        down_ms: down,
        late_up_ms: late.up,
        late_down_ms: late.down,
        unreached_ms,
        unknown_ms: span_ms - known,
        availability: share(good, known),
        coverage: share(known, span_ms),
        samples: used.samples,
        cpu_percent: percent(used.mean(used.cpu_sum)),
        cpu_most_percent: percent(used.cpu_most),
        memory_bytes: used.mean(used.memory_sum),
        memory_most_bytes: used.memory_most,
        delay_micros: used.mean(used.delay_sum),
        loss_percent: percent(used.mean(used.loss_sum)),
    }
}

/// `part` of `whole` in thousandths of a percent, rounded down.
fn share(part: u64, whole: u64) -> Option<u64> {
    let share = (u128::from(part) * 100_000).checked_div(u128::from(whole))?;
    u64::try_from(share).ok()
}
