//! What a simulation found wrong.

use std::fmt;
use std::time::Duration;

/// A broken promise, in words.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) String);

/// Nothing, or a broken promise.
pub(crate) type Checked<T = ()> = Result<T, Fault>;

/// Breaks the run unless `holds`.
pub(crate) fn require(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Fault(what())) }
}

/// Breaks the run unless both are equal.
pub(crate) fn require_equal<T: PartialEq + fmt::Debug>(found: &T, wanted: &T, what: &str) -> Checked {
    require(found == wanted, || format!("{what}\n  found:  {found:?}\n  wanted: {wanted:?}"))
}

/// A run that broke a promise, with what is needed to look at it again.
#[derive(Debug)]
pub struct Failure {
    /// Seed of the run.
    pub seed: u64,
    /// Step in which it broke.
    pub step: u64,
    /// Virtual time since the start.
    pub at: Duration,
    /// What broke.
    pub fault: String,
    /// The last events, oldest first.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        let Self { seed, step, at, fault, .. } = self;
        write!(f, "SIM_SEED={seed}: step {step}, {:.3} s: {fault}", at.as_secs_f64())
    }
}

impl std::error::Error for Failure {}
