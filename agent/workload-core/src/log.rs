//! What a workload writes, from bytes to lines that may be kept and shown.
//!
//! ```text
//!   bytes -> Splitter (Redactor) -> Rate -> Ring, encode -> a file
//! ```
//!
//! Invariants:
//! - no secret is in a text that leaves the [`Splitter`], however its bytes were cut on their way;
//! - the lines of a ring have numbers without a gap, each new one the next;
//! - what was appended is there after any crash, but for what the ring had to make room for.

mod level;
mod rate;
mod record;
mod redact;
mod ring;
mod secrets;
mod split;

use blueprint_common_types::{LogLevel, LogStream, Timestamp};

pub use level::level_of;
pub use rate::{Rate, RateLimits};
pub use record::{MAX_RECORD_BYTES, Scanned, encode, next_line, scan};
pub use redact::{REDACTED, Redactor};
pub use ring::{Repair, Ring, RingLimits, Room, Segment};
pub use secrets::secrets;
pub use split::{MAX_LINE_BYTES, Piece, Splitter};

/// One line that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in its ring.
    pub seq: u64,
    /// When it came, by this machine's clock.
    pub at: Timestamp,
    /// The assignment that it is of.
    pub generation: u64,
    /// Where it was written.
    pub stream: LogStream,
    /// How important it says it is; `None` where it does not say.
    pub level: Option<LogLevel>,
    /// Its text, without secrets and without the end of the line.
    pub text: String,
    /// It was longer than [`MAX_LINE_BYTES`] and goes on in the next line of its stream.
    pub goes_on: bool,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// None from before.
    pub since: Timestamp,
    /// None below; those without a level fit always.
    pub level: Option<LogLevel>,
    /// What has to be in the text.
    pub grep: String,
    /// None of runs of lower generations.
    pub from_run: u64,
    /// None of runs from this generation on.
    pub before_run: Option<u64>,
}

impl Filter {
    /// Whether a line is wanted.
    #[must_use]
    pub fn fits(&self, line: &Line) -> bool {
        line.at >= self.since
            && line.generation >= self.from_run
            && self.before_run.is_none_or(|before| line.generation < before)
            && line.level.is_none_or(|level| self.level.is_none_or(|least| level >= least))
            && (self.grep.is_empty() || line.text.contains(&self.grep))
    }
}
