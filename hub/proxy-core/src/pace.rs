//! How fast the body of a request has to come while somebody waits for it.

use std::time::{Duration, Instant};

/// So many bytes in so much time of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRate {
    /// Bytes in each second.
    pub bytes_per_second: u64,
    /// Time of waiting over which they are counted; shorter waits are nobody's fault.
    pub over: Duration,
}

impl Default for LeastRate {
    /// 1 KiB a second over 30 s.
    fn default() -> Self {
        Self { bytes_per_second: 1024, over: Duration::from_secs(30) }
    }
}

/// One body. Only the time in which the service is ready for more and the client sends nothing is counted, so that
/// a slow service never makes a client look slow.
#[derive(Debug, Clone)]
pub struct Pace {
    least: LeastRate,
    waited: Duration,
    bytes: u64,
    waits_since: Option<Instant>,
}

impl Pace {
    /// A body that has not begun.
    #[must_use]
    pub const fn new(least: LeastRate) -> Self {
        Self { least, waited: Duration::ZERO, bytes: 0, waits_since: None }
    }

    /// Somebody asked for more and there was nothing; gives the time at which to ask [`Self::is_too_slow`].
    pub fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.waits_since.get_or_insert(now);
        since + self.least.over.saturating_sub(self.waited)
    }

    /// So many bytes came.
    pub fn take(&mut self, bytes: u64, now: Instant) {
        self.pass(now);
        self.waits_since = None;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether the client was waited for long enough to say that it is too slow.
    pub fn is_too_slow(&mut self, now: Instant) -> bool {
        self.pass(now);
        if self.waited < self.least.over {
            return false;
        }
        let due = self.least.bytes_per_second.saturating_mul(self.waited.as_secs());
        let is_slow = self.bytes < due;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_slow
    }

    fn pass(&mut self, now: Instant) {
        if let Some(since) = self.waits_since {
            self.waited = self.waited.saturating_add(now.saturating_duration_since(since));
            self.waits_since = Some(now.max(since));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    /// A client that sends `bytes` after every pause, for ten minutes; whether it is cut.
    fn is_cut(bytes: u64, pause: Duration) -> bool {
        let mut now = Instant::now();
        let end = now + Duration::from_secs(600);
        let mut pace = Pace::new(LeastRate::default());
        while now < end {
            let due = pace.wait(now);
            if due <= now + pause && pace.is_too_slow(due) {
                return true;
            }
            now += pause;
            pace.take(bytes, now);
        }
        false
    }

    #[test]
    fn a_trickle_is_cut_and_a_slow_line_is_not() {
        assert!(is_cut(1, Duration::from_millis(500)));
        assert!(is_cut(0, Duration::from_secs(100)));
        assert!(is_cut(10_000, Duration::from_secs(29)));
        assert!(!is_cut(3000, Duration::from_secs(2)));
        assert!(!is_cut(40_000, Duration::from_secs(29)));
    }

    #[test]
    fn a_service_that_takes_its_time_is_not_the_clients_fault() {
        let mut now = Instant::now();
        let mut pace = Pace::new(LeastRate::default());
        for _ in 0..1000 {
            pace.wait(now);
            now += Duration::from_millis(10);
            pace.take(100, now);
            // Nobody asks for a minute.
            now += Duration::from_secs(60);
            assert!(!pace.is_too_slow(now));
        }
    }
}
