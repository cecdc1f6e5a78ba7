//! How a workload ended.

use std::fmt;

/// How a process or container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// By the kernel, for the memory it used.
    OutOfMemory,
    /// It is gone, and nobody knows how: it was started by an earlier agent.
    Unknown,
}

impl Exit {
    /// Whether it did what it was asked to.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }

    /// As shells say it: 128 and the signal's number where there is no code.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128i32.saturating_add(number),
            Self::OutOfMemory => 137,
            Self::Unknown => 255,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => write!(f, "was killed by signal {number}"),
            Self::OutOfMemory => f.write_str("was killed: it used more memory than its limit"),
            Self::Unknown => f.write_str("ended while no agent watched it"),
        }
    }
}
