//! Whether the wall clock may decide what is deleted.

use std::time::Duration;

use blueprint_common_types::Timestamp;

/// The two clocks may come apart by so much between two looks.
const MOST_APART: Duration = Duration::from_secs(60);

/// A clock that is further ahead of what was known last is believed after so long without a step.
const DOUBTED: Duration = Duration::from_secs(24 * 3600);

/// Why nothing is deleted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockDoubt {
    /// The wall clock was set, or the machine slept.
    #[error("the clock was set, or this machine slept")]
    Stepped,
    /// The wall clock is far ahead of the newest history, and nobody has set it back yet.
    #[error(
        "the clock is more than a day ahead of the newest history; it is believed once the hub has run a day"
    )]
    Ahead,
}

/// Compares the wall clock with one that is never set. A clock that is ahead deletes history for good, so it is doubted.
#[derive(Debug)]
pub struct ClockWatch {
    /// The last time that was believed.
    newest: Option<Timestamp>,
    last: (Timestamp, Duration),
    /// Since when there was no step.
    steady_since: Duration,
}

impl ClockWatch {
    /// Begins at `now`; `newest` is when the newest history is from, `None` where there is none.
    #[must_use]
    pub const fn new(newest: Option<Timestamp>, now: Timestamp) -> Self {
        Self { newest, last: (now, Duration::ZERO), steady_since: Duration::ZERO }
    }

    /// Whether history may be deleted at `now`, `running` after the start by a clock that is never set.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub fn may_forget(&mut self, now: Timestamp, running: Duration) -> Result<(), ClockDoubt> {
        let (wall, before) = std::mem::replace(&mut self.last, (now, running));
        let expected = wall.plus(running.saturating_sub(before));
        if now.since(expected) > MOST_APART || expected.since(now) > MOST_APART {
            self.steady_since = running;
            return Err(ClockDoubt::Stepped);
        }
        let is_ahead = self.newest.is_some_and(|newest| now.since(newest) > DOUBTED);
        if is_ahead && running.saturating_sub(self.steady_since) < DOUBTED {
            return Err(ClockDoubt::Ahead);
        }
        self.newest = Some(now);
        Ok(())
    }
}
