//! Lines that workloads write: where, how important, and which.

use std::fmt;
use std::str::FromStr;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere: the node says it of the output itself.
    Node,
}

impl LogStream {
    /// Its name in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Node => "node",
        }
    }
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happens.
    Info,
    /// What may need somebody.
    Warn,
    /// What failed.
    Error,
}

/// A text is not the name of a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not trace, debug, info, warn or error")]
pub struct ParseLogLevelError(String);

impl LogLevel {
    /// Every level, the least first.
    pub const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for LogLevel {
    type Err = ParseLogLevelError;

    fn from_str(text: &str) -> Result<Self, ParseLogLevelError> {
        let found = Self::ALL.into_iter().find(|level| level.label() == text);
        found.ok_or_else(|| ParseLogLevelError(text.chars().take(64).collect()))
    }
}

/// Names one line of what a node keeps of a service. Prints as `RING-SEQ`: 16 hexadecimal digits and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogCursor {
    /// Random number of what is kept: another one where that was lost, or on another node.
    pub ring: u64,
    /// Number of the line; those of one ring begin with 1 and grow by 1.
    pub seq: u64,
}

/// A text is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor as lines carry it")]
pub struct ParseLogCursorError(String);

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.ring, self.seq)
    }
}

impl FromStr for LogCursor {
    type Err = ParseLogCursorError;

    fn from_str(text: &str) -> Result<Self, ParseLogCursorError> {
        let read = || {
            let (ring, seq) = text.split_once('-').filter(|(ring, _)| ring.len() == 16)?;
            Some(Self { ring: u64::from_str_radix(ring, 16).ok()?, seq: seq.parse().ok()? })
        };
        read().ok_or_else(|| ParseLogCursorError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_prints() {
        for cursor in [LogCursor { ring: 7, seq: 1 }, LogCursor { ring: u64::MAX, seq: u64::MAX }] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in ["", "-", "7-1", "00000000000000077-1", "000000000000000x-1", "0000000000000007-x"] {
            assert!(bad.parse::<LogCursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn levels_have_an_order_and_names() {
        assert!(LogLevel::ALL.is_sorted());
        for level in LogLevel::ALL {
            assert_eq!(level.label().parse(), Ok(level));
        }
        assert!("loud".parse::<LogLevel>().is_err());
    }
}
