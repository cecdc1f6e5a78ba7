//! Versions of a service's workload, as they are kept.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};

/// Versions of one service that are kept where nothing else is said; the oldest goes first, but never one that is in use.
pub const KEEP_VERSIONS: usize = 10;

/// Fewest that may be kept, the one that serves and the one before, and most: a document has up to 256 KiB.
pub const KEPT_VERSIONS: RangeInclusive<usize> = 2..=50;

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionOutcome {
    /// It serves.
    Current,
    /// It served until another one took its place.
    Replaced,
    /// An update to it is under way.
    Updating,
    /// The update to it was taken back, by itself; the reason says why.
    Failed,
    /// The operator had the update to it taken back.
    Aborted,
}

impl VersionOutcome {
    /// One word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Replaced => "replaced",
            Self::Updating => "updating",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Whether it served, so that one may go back to it without naming it.
    #[must_use]
    pub const fn has_served(self) -> bool {
        match self {
            Self::Current | Self::Replaced => true,
            Self::Updating | Self::Failed | Self::Aborted => false,
        }
    }
}

impl fmt::Display for VersionOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not what becomes of a version")]
pub struct ParseOutcomeError(String);

impl FromStr for VersionOutcome {
    type Err = ParseOutcomeError;

    fn from_str(text: &str) -> Result<Self, ParseOutcomeError> {
        let all = [Self::Current, Self::Replaced, Self::Updating, Self::Failed, Self::Aborted];
        let known = all.into_iter().find(|outcome| outcome.label() == text);
        known.ok_or_else(|| ParseOutcomeError(text.chars().take(32).collect()))
    }
}

/// A version of a service's workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Which service.
    pub service: ServiceKey,
    /// Its number; the first is 1, and none is given twice.
    pub number: u32,
    /// JSON, as it was run.
    pub document: String,
    /// Nodes that may run it; empty for every node.
    pub nodes: BTreeSet<AgentId>,
    /// Keys of the blueprint, sealed by the caller; `None` where it gets none.
    pub keystore: Option<String>,
    /// When it was made.
    pub made_at: Timestamp,
    /// By which way the operator came; empty where that is not known.
    pub by: String,
    /// How it came to be: `run`, or the strategy of the update.
    pub strategy: String,
    /// The version that it repeats; `None` for a new one.
    pub repeats: Option<u32>,
    /// What became of it.
    pub outcome: VersionOutcome,
    /// Why, one line; empty where there is nothing to say.
    pub reason: String,
    /// Since when that is so.
    pub decided_at: Timestamp,
}
