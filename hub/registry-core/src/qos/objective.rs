//! How much of the time something is to be up.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use serde::{Serialize, Serializer};

/// Thousandths of a percent in all.
const WHOLE: u64 = 100_000;

/// A text is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no objective: percent above 0 and up to 100 with at most three decimals was expected, such as 99.9"
)]
pub struct ParseObjectiveError(String);

/// Share of the time that a service is to be up, in thousandths of a percent. Its text is such as `99.9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Objective(u32);

impl Default for Objective {
    /// 99.9 %.
    fn default() -> Self {
        Self(99_900)
    }
}

/// What of the time that a service may be down is used. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// What it may be down in all.
    pub allowed_ms: u64,
    /// What it was down.
    pub used_ms: u64,
    /// What is left; 0 where more is used than is allowed.
    pub left_ms: u64,
}

impl Objective {
    /// From thousandths of a percent; `None` for 0 and for more than the whole.
    #[must_use]
    pub fn new(thousandths: u32) -> Option<Self> {
        (1..=WHOLE).contains(&thousandths.into()).then_some(Self(thousandths))
    }

    /// Thousandths of a percent.
    #[must_use]
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// What may be down of a span, and how much of that was.
    #[must_use]
    pub fn budget(self, span_ms: u64, down_ms: u64) -> Budget {
        let allowed =
            u128::from(span_ms) * u128::from(WHOLE.saturating_sub(self.0.into())) / u128::from(WHOLE);
        let allowed_ms = u64::try_from(allowed).unwrap_or(u64::MAX);
        Budget { allowed_ms, used_ms: down_ms, left_ms: allowed_ms.saturating_sub(down_ms) }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Objective {
    type Err = ParseObjectiveError;

    fn from_str(text: &str) -> Result<Self, ParseObjectiveError> {
        let parse = || {
            let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
            let is_digits =
                |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_digits(whole) || !is_digits(decimals) {
                return None;
            }
            let whole: u32 = whole.parse().ok()?;
            Self::new(whole * 1000 + format!("{decimals:0<3}").parse::<u32>().ok()?)
        };
        parse().ok_or_else(|| ParseObjectiveError(text.chars().take(32).collect()))
    }
}

impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What has an objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectiveOf {
    /// A service.
    Service(ServiceKey),
    /// A machine, whether or not it is reached.
    Node(AgentId),
    /// The tunnel of a machine.
    Tunnel(AgentId),
}

impl fmt::Display for ObjectiveOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "{service}"),
            Self::Node(agent) => write!(f, "node {agent}"),
            Self::Tunnel(agent) => write!(f, "tunnel {agent}"),
        }
    }
}

/// The objective of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectiveRecord {
    /// Of what.
    pub of: ObjectiveOf,
    /// What it is to reach.
    pub objective: Objective,
    /// When it was set.
    pub changed_at: Timestamp,
}
