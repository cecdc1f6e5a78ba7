//! How much of what a workload writes is taken in.

use std::time::{Duration, Instant};

/// How much may come in a second, on the average of the last ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Lines a second, at least 1.
    pub lines: u32,
    /// Bytes of text a second, at least 1.
    pub bytes: u64,
}

/// What came less before may come at once.
const BURST: Duration = Duration::from_secs(10);

/// Once it is over, so much has to be free again, so that what is left out is told in few lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Says of each line whether it is taken.
#[derive(Debug)]
pub struct Rate {
    limits: RateLimits,
    /// What is free, as the time in which it became so.
    lines: Duration,
    bytes: Duration,
    at: Instant,
    is_over: bool,
    dropped: u64,
}

impl Rate {
    /// With all of it free.
    #[must_use]
    pub const fn new(limits: RateLimits, now: Instant) -> Self {
        Self { limits, lines: BURST, bytes: BURST, at: now, is_over: false, dropped: 0 }
    }

    /// Whether a line of so many bytes is taken; one that is not is counted.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.lines = self.lines.saturating_add(passed).min(BURST);
        self.bytes = self.bytes.saturating_add(passed).min(BURST);
        let nanos = |count: u64, rate: u64| {
            Duration::from_nanos(count.saturating_mul(1_000_000_000) / rate.max(1)).min(BURST)
        };
        let line = nanos(1, self.limits.lines.into());
        let text = nanos(u64::try_from(bytes).unwrap_or(u64::MAX), self.limits.bytes);
        self.is_over &= self.lines < PAUSE || self.bytes < PAUSE;
        match (self.lines.checked_sub(line), self.bytes.checked_sub(text)) {
            (Some(lines), Some(bytes)) if !self.is_over => {
                (self.lines, self.bytes) = (lines, bytes);
                true
            }
            _ => {
                self.is_over = true;
                self.dropped = self.dropped.saturating_add(1);
                false
            }
        }
    }

    /// How many were not taken since this was asked last, once lines are taken again or `at_once`.
    pub const fn dropped(&mut self, at_once: bool) -> u64 {
        if self.is_over && !at_once {
            return 0;
        }
        let dropped = self.dropped;
        self.dropped = 0;
        dropped
    }

    /// Whether nothing is taken at the moment.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// What it holds to.
    #[must_use]
    pub const fn limits(&self) -> RateLimits {
        self.limits
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a first instant to count from")]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_rate_and_what_is_left_out_is_counted() {
        let start = Instant::now();
        let mut rate = Rate::new(RateLimits { lines: 100, bytes: 1 << 20 }, start);
        let (mut taken, mut told, mut times) = (0u64, 0, 0);
        for milli in 0..100_000u64 {
            let now = start + Duration::from_millis(milli);
            taken += u64::from(rate.take(10, now));
            let dropped = rate.dropped(false);
            told += dropped;
            times += u64::from(dropped > 0);
        }
        told += rate.dropped(true);
        assert_eq!(taken + told, 100_000);
        // What was free at first, and a hundred seconds.
        assert!((10_000..=11_000).contains(&taken), "{taken}");
        assert!(times <= 100, "{times}");
    }

    #[test]
    fn what_keeps_to_its_rate_is_taken_whole() {
        let start = Instant::now();
        let mut rate = Rate::new(RateLimits { lines: 100, bytes: 1000 }, start);
        let all = (0..10_000u64).all(|number| rate.take(10, start + Duration::from_millis(number * 10)));
        assert!(all && rate.dropped(true) == 0);
        // One that is larger than what may come at once takes all of it.
        let later = start + Duration::from_secs(200);
        assert!(rate.take(20_000, later) && !rate.take(1, later) && rate.dropped(true) == 1);
    }
}
