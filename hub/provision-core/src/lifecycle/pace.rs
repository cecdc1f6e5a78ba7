//! How often and how soon a cloud is called: rate, back-off, breaker. All of it is told the time.

use std::collections::VecDeque;
use std::time::Duration;

use blueprint_common_types::Timestamp;

/// Random numbers from a seed (SplitMix64; Steele, Lea, Flood 2014). Not for secrets.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts at a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 for an end of 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        let bits = self.next();
        if end == 0 { 0 } else { bits % end }
    }

    /// True in `percent` of 100 cases.
    pub const fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A time up to `most`, in milliseconds.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(millis.saturating_add(1)))
    }
}

/// Waits between tries of one call: full jitter, doubling.
///
/// Half a second doubled up to 30 s (`providers.md` 8.4).
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Longest first wait.
    pub first: Duration,
    /// Longest wait of all.
    pub most: Duration,
}

impl Backoff {
    /// For calls to clouds.
    pub const CLOUD: Self = Self { first: Duration::from_millis(500), most: Duration::from_secs(30) };

    /// The wait after failure number `failures` (from 1), and at least what the cloud asked for.
    pub fn wait(&self, failures: u32, asked: Option<Duration>, dice: &mut Dice) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let jitter = dice.up_to(self.first.saturating_mul(doubled).min(self.most));
        // What the cloud asks for has a limit too: it may have a bad day.
        asked.map_or(jitter, |asked| {
            asked.min(Duration::from_secs(600)).saturating_add(jitter.min(self.first))
        })
    }
}

/// How often a cloud may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls a second, 1 at least.
    pub per_second: u32,
    /// Calls at once after a pause, 1 at least.
    pub burst: u32,
}

impl Rate {
    /// What the strictest of the common clouds lets pass.
    pub const DEFAULT: Self = Self { per_second: 3, burst: 10 };

    /// What `provider` lets pass (`providers.md` 8.4); the slower one where it tells reading from writing, since all calls
    /// to it go through one gate.
    #[must_use]
    pub fn of(provider: &str) -> Self {
        let (per_second, burst) = match provider {
            "hivelocity" => (1, 1),
            // Three calls a second, and one of those that make a machine.
            "linode" => (1, 3),
            "aws" | "azure" | "scaleway" => (5, 10),
            "gcp" | "vultr" => (10, 10),
            _ => return Self::DEFAULT,
        };
        Self { per_second, burst }
    }
}

/// At most so many calls a second, with a few at once.
#[derive(Debug, Clone)]
pub struct Bucket {
    every: Duration,
    burst: u32,
    /// When the bucket would be full, counted ahead by one pace per call.
    next: Timestamp,
}

impl Bucket {
    /// Lets calls pass at `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let every = Duration::from_secs(1) / rate.per_second.max(1);
        Self { every, burst: rate.burst.max(1), next: Timestamp::from_millis(0) }
    }

    /// Takes one call and says how long it has to wait.
    pub fn take(&mut self, now: Timestamp) -> Duration {
        let own = self.next.max(now);
        self.next = own.plus(self.every);
        own.since(now).saturating_sub(self.every.saturating_mul(self.burst.saturating_sub(1)))
    }
}

/// Stops calling a cloud that fails again and again: five failures in 30 s open it, a listing closes it.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    failures: VecDeque<Timestamp>,
    open_until: Option<Timestamp>,
    opened: u32,
}

impl Breaker {
    /// Failures that open it, and within which time (promise P24).
    const FAILURES: usize = 5;
    const WITHIN: Duration = Duration::from_secs(30);
    /// First and longest pause.
    const PAUSE: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_secs(600);

    /// True where calls may be made. One that was open long enough lets a try pass.
    #[must_use]
    pub fn is_closed(&self, now: Timestamp) -> bool {
        self.open_until.is_none_or(|until| until <= now)
    }

    /// A call worked.
    pub fn handle_success(&mut self) {
        *self = Self::default();
    }

    /// A call failed in a way that says the cloud is ill; true where this opened the breaker.
    pub fn handle_failure(&mut self, now: Timestamp) -> bool {
        if !self.is_closed(now) {
            // It was under way when the pause began, and tells nothing new.
            return false;
        }
        self.failures.push_back(now);
        self.failures.retain(|at| now.since(*at) <= Self::WITHIN);
        let was_open = self.open_until.is_some();
        // The try after a pause is one failure, and enough.
        if self.failures.len() < Self::FAILURES && !was_open {
            return false;
        }
        let pause = Self::PAUSE.saturating_mul(1u32.checked_shl(self.opened).unwrap_or(u32::MAX));
        self.opened = self.opened.saturating_add(1).min(16);
        self.open_until = Some(now.plus(pause.min(Self::LONGEST)));
        self.failures.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn a_bucket_lets_a_burst_pass_and_then_one_per_pace() {
        let mut bucket = Bucket::new(Rate { per_second: 5, burst: 3 });
        let waits: Vec<_> = (0..5).map(|_| bucket.take(at(0)).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 200, 400]);
        assert_eq!(bucket.take(at(10_000)), Duration::ZERO);
    }

    #[test]
    fn waits_grow_stay_below_their_ends_and_heed_the_cloud() {
        let mut dice = Dice::new(7);
        for failures in 1..40 {
            let wait = Backoff::CLOUD.wait(failures, None, &mut dice);
            assert!(wait <= Duration::from_secs(30), "{wait:?}");
            if failures == 1 {
                assert!(wait <= Duration::from_millis(500));
            }
        }
        let asked = Backoff::CLOUD.wait(1, Some(Duration::from_secs(20)), &mut dice);
        assert!((Duration::from_secs(20)..=Duration::from_millis(20_500)).contains(&asked));
        assert!(Backoff::CLOUD.wait(1, Some(Duration::MAX), &mut dice) < Duration::from_secs(602));
    }

    #[test]
    fn five_failures_in_half_a_minute_open_and_the_pause_doubles() {
        let mut breaker = Breaker::default();
        for second in 0..4 {
            assert!(!breaker.handle_failure(at(second * 20_000)), "four in a minute are no illness");
        }
        let mut breaker = Breaker::default();
        for second in 0..4 {
            assert!(!breaker.handle_failure(at(second * 1000)));
        }
        assert!(breaker.handle_failure(at(4000)));
        for _ in 0..5 {
            assert!(!breaker.handle_failure(at(4001)), "calls that were under way make the pause no longer");
        }
        assert!(!breaker.is_closed(at(33_999)) && breaker.is_closed(at(34_000)));
        assert!(breaker.handle_failure(at(34_000)), "the try failed");
        assert!(!breaker.is_closed(at(93_999)) && breaker.is_closed(at(94_000)));
        breaker.handle_success();
        assert!(!breaker.handle_failure(at(95_000)));
    }
}
