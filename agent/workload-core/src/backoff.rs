//! How long a workload waits before it is started again.

use std::time::Duration;

/// Wait before the first restart, and the longest one; each is twice the one before.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(500);
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What ran for so long has earned a short wait again.
const SETTLED: Duration = Duration::from_secs(60);

/// The wait of one workload: 0.5 s at first, twice as long each time, 60 s at most.
#[derive(Debug, Clone)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(FIRST_WAIT)
    }

    /// Notes how long it ran.
    pub(crate) fn handle_run(&mut self, ran: Duration) {
        if ran >= SETTLED {
            self.0 = FIRST_WAIT;
        }
    }

    /// The wait from now on.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = wait.saturating_mul(2).min(LONGEST_WAIT);
        wait
    }
}
