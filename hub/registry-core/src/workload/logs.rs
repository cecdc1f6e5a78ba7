//! What workloads wrote, as nodes give it to the hub.

use blueprint_common_types::{LogCursor, LogLevel, LogStream, ServiceKey, Timestamp};

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub struct LogsAsk {
    /// Of which service.
    pub service: ServiceKey,
    /// Which instance of it; another one while and after it is updated.
    pub slot: u8,
    /// Those after this one; `None` for all that are kept.
    pub after: Option<LogCursor>,
    /// Those from this time on, by the node's clock.
    pub since: Timestamp,
    /// The newest so many of those that fit, at first.
    pub tail: Option<u32>,
    /// Least level; lines without one fit always.
    pub level: Option<LogLevel>,
    /// What has to be in the text; empty for anything.
    pub grep: String,
    /// Whether lines that are written later are wanted, too.
    pub follow: bool,
    /// Of which runs.
    pub runs: Runs,
}

/// Runs of a workload by their generations; all by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Runs {
    /// None below.
    pub from: u64,
    /// None from this one on; `None` for no such end.
    pub before: Option<u64>,
}

impl Runs {
    /// Whether a run is one of them.
    #[must_use]
    pub fn has(self, generation: u64) -> bool {
        generation >= self.from && self.before.is_none_or(|before| generation < before)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsLine {
    /// Which: a later question may go on behind it.
    pub cursor: LogCursor,
    /// When it was written, by the node's clock.
    pub at: Timestamp,
    /// The assignment that it is of.
    pub generation: u64,
    /// Where it was written.
    pub stream: LogStream,
    /// How important it says it is.
    pub level: Option<LogLevel>,
    /// Its text. The node says that no secret is in it.
    pub text: String,
    /// It goes on in the next line of its stream.
    pub goes_on: bool,
}

/// Some lines, in the order of their numbers. One without lines says that the node is still there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogsPiece {
    /// The lines.
    pub lines: Vec<LogsLine>,
    /// Lines before them that were gone before they were read.
    pub missed: u64,
    /// The last line that was looked at, whether it fits or not; where the node says it.
    pub reached: Option<LogCursor>,
    /// Nothing follows.
    pub is_last: bool,
}

/// Why a node is not asked, or does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogsError {
    /// It has no control stream.
    #[error("its node is not connected")]
    Away,
    /// It did not begin to answer.
    #[error("its node does not answer; an agent of an earlier version does not know the question")]
    NoAnswer,
    /// As many read as may.
    #[error("{of} gives output to {most} readers already")]
    TooMany {
        /// Who.
        of: &'static str,
        /// How many.
        most: usize,
    },
    /// The answer broke off.
    #[error("the node broke off: {0}")]
    Broken(String),
    /// The hub ends.
    #[error("the hub is stopping")]
    Stopping,
}
