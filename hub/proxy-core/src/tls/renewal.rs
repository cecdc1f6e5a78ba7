//! When a certificate is ordered again: at two thirds of its life, and after failures ever later.

use std::time::Duration;

use blueprint_common_types::Timestamp;

/// Pause after the first failure. Four times that after the next: four attempts in the first hour, below the
/// five failures an hour that Let's Encrypt allows for an account and a name.
const FIRST_PAUSE: Duration = Duration::from_secs(120);

/// Longest pause after failures, unless the server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 3600);

/// Longest pause that a server is believed to want.
const LONGEST_WISH: Duration = Duration::from_secs(7 * 24 * 3600);

/// Remembers failures, and says when to order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewal {
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Renewal {
    /// How often orders failed in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// An order succeeded.
    pub const fn note_success(&mut self) {
        *self = Self { failures: 0, not_before: None };
    }

    /// An order failed. `wish` is how long the server wants to be left alone, `random` any number, so that hubs
    /// that failed together do not come back together.
    pub fn note_failure(&mut self, wish: Option<Duration>, random: u32, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        let factor = 4u32.saturating_pow(self.failures.saturating_sub(1).min(8));
        let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
        let pause = pause.max(wish.unwrap_or_default().min(LONGEST_WISH));
        self.not_before = Some(now.plus(pause.saturating_add(share(pause, 10, random))));
    }

    /// When to order a certificate in place of one with this life; at once where there is none that fits.
    #[must_use]
    pub fn due(&self, life: Option<(Timestamp, Timestamp)>, random: u32) -> Timestamp {
        let by_life = match life {
            None => Timestamp::default(),
            Some((start, end)) => {
                let length = end.since(start);
                let third = length.checked_div(3).unwrap_or_default();
                // Up to a thirtieth earlier, each hub at a time of its own.
                let early = share(length, 30, random);
                start.plus(length.saturating_sub(third).saturating_sub(early))
            }
        };
        self.not_before.map_or(by_life, |earliest| by_life.max(earliest))
    }
}

/// A random part of up to one `of`th of a span.
fn share(span: Duration, of: u32, random: u32) -> Duration {
    let most = span.checked_div(of).unwrap_or_default();
    // In seconds and thousandths: a product with 64 bits would not fit a life of years in nanoseconds.
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX / 1024);
    Duration::from_millis(millis.saturating_mul(u64::from(random % 1024)) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(days: u32) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).plus(DAY * days)
    }

    #[test]
    fn a_certificate_is_ordered_again_at_two_thirds_of_its_life_or_a_little_sooner() {
        let renewal = Renewal::default();
        assert_eq!(renewal.due(None, 7), Timestamp::default());
        let life = Some((at(0), at(90)));
        assert_eq!(renewal.due(life, 0), at(60));
        for random in [1, 512, 1023, u32::MAX] {
            let due = renewal.due(life, random);
            assert!(due < at(60) && due > at(57), "{due}");
        }
        assert!(renewal.due(Some((at(90), at(0))), 3) <= at(90), "a life that ends before it begins");
    }

    #[test]
    fn failures_wait_ever_longer_and_as_long_as_the_server_asks() {
        let mut renewal = Renewal::default();
        let now = at(80);
        let life = Some((at(0), at(90)));
        let mut before = Duration::ZERO;
        for _ in 0..12 {
            renewal.note_failure(None, 0, now);
            let pause = renewal.due(life, 0).since(now);
            assert!(pause >= before && pause <= LONGEST_PAUSE, "{pause:?}");
            before = pause;
        }
        assert_eq!((before, renewal.failures()), (LONGEST_PAUSE, 12));
        renewal.note_failure(Some(DAY), 0, now);
        assert_eq!(renewal.due(life, 0), at(81));
        renewal.note_failure(Some(DAY * 1000), 1023, now);
        assert!(renewal.due(life, 0) < at(89), "no server keeps us away for ever");
        renewal.note_success();
        assert_eq!(renewal.due(life, 0), at(60));
    }

    #[test]
    fn four_failures_fit_into_the_first_hour() {
        let mut renewal = Renewal::default();
        let (mut now, mut attempts) = (at(0), 1);
        loop {
            renewal.note_failure(None, 0, now);
            now = renewal.due(None, 0);
            if now.since(at(0)) > Duration::from_secs(3600) {
                break;
            }
            attempts += 1;
        }
        assert_eq!(attempts, 4);
    }
}
