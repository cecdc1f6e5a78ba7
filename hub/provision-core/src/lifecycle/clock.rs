//! Whether the clock may be believed when machines are to be deleted because of the time.
//!
//! A clock that is set forward by an hour must not end deployments an hour early. The hub compares its wall clock with
//! the clock that only runs, and where both go apart it asks clouds what time it is.

use std::time::Duration;

use blueprint_common_types::Timestamp;

/// A wall clock that moves by more than this, against the clock that only runs, is not believed.
pub const MAX_CLOCK_STEP: Duration = Duration::from_secs(300);

/// How often a cloud has to agree before a clock that moved is believed.
const AGREE: u32 = 2;

/// How long a clock that moved has to go on evenly to be believed where no cloud tells its time.
const STEADY: Duration = Duration::from_secs(3600);

/// The hub's sense of time.
#[derive(Debug)]
pub struct ClockWatch {
    /// What was believed last, and what the running clock said then.
    base: (Timestamp, Duration),
    /// Set while the wall clock is not believed.
    doubt: Option<Doubt>,
}

#[derive(Debug)]
struct Doubt {
    /// Wall clock and running clock when it began to go evenly.
    since: (Timestamp, Duration),
    agreed: u32,
}

impl ClockWatch {
    /// Starts with `wall` and a clock that only runs. `last` is when an earlier process looked last: where that was
    /// long ago, the hub was away or the clock was set, and only a cloud can tell.
    #[must_use]
    pub fn new(last: Option<Timestamp>, wall: Timestamp, running: Duration) -> Self {
        let moved = last.is_some_and(|last| last.distance(wall) > MAX_CLOCK_STEP);
        let doubt = moved.then_some(Doubt { since: (wall, running), agreed: 0 });
        Self { base: (wall, running), doubt }
    }

    /// The time to decide by: follows the wall clock while that goes evenly, else goes on by the running clock.
    /// Goes back only once a clock that was set back is believed.
    pub fn tick(&mut self, wall: Timestamp, running: Duration) -> Timestamp {
        let (base, then) = self.base;
        let even = base.plus(running.saturating_sub(then));
        match &mut self.doubt {
            None if wall.distance(even) <= MAX_CLOCK_STEP => self.base = (wall.max(base), running),
            None => {
                self.doubt = Some(Doubt { since: (wall, running), agreed: 0 });
                self.base = (even, running);
            }
            Some(doubt) => {
                self.base = (even, running);
                let expected = doubt.since.0.plus(running.saturating_sub(doubt.since.1));
                if wall.distance(expected) > MAX_CLOCK_STEP {
                    *doubt = Doubt { since: (wall, running), agreed: 0 };
                } else if running.saturating_sub(doubt.since.1) >= STEADY {
                    self.believe(wall, running);
                }
            }
        }
        self.base.0
    }

    /// A cloud said what time it is.
    pub fn handle_cloud_time(&mut self, cloud: Timestamp, wall: Timestamp, running: Duration) {
        let Some(doubt) = &mut self.doubt else { return };
        if cloud.distance(wall) > MAX_CLOCK_STEP {
            // An even hour counts only while no cloud says otherwise.
            *doubt = Doubt { since: (wall, running), agreed: 0 };
            return;
        }
        doubt.agreed = doubt.agreed.saturating_add(1);
        if doubt.agreed >= AGREE {
            self.believe(wall, running);
        }
    }

    /// False while nothing may be deleted because of the time alone.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.doubt.is_none()
    }

    fn believe(&mut self, wall: Timestamp, running: Duration) {
        self.doubt = None;
        self.base = (wall, running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + minutes * 60_000)
    }

    #[test]
    fn a_clock_that_a_cloud_contradicts_is_not_believed_because_it_goes_evenly() {
        let mut clock = ClockWatch::new(None, at(0), Duration::ZERO);
        clock.tick(at(1), MINUTE);
        let ahead = 365 * 24 * 60;
        for minute in 2..200 {
            let (wall, running) = (at(minute + ahead), MINUTE * u32::try_from(minute).unwrap());
            assert_eq!(clock.tick(wall, running), at(minute), "{minute}");
            clock.handle_cloud_time(at(minute), wall, running);
            assert!(!clock.is_trusted(), "{minute}");
        }
    }

    #[test]
    fn a_clock_that_goes_evenly_is_followed() {
        let mut clock = ClockWatch::new(None, at(0), Duration::ZERO);
        assert_eq!(clock.tick(at(1), MINUTE), at(1));
        assert_eq!(clock.tick(at(4), MINUTE * 2), at(4), "two minutes ahead is set right by the system");
        assert_eq!(clock.tick(at(3), MINUTE * 3), at(4), "and a small step back is waited for");
        assert!(clock.is_trusted());
    }

    #[test]
    fn an_hour_forward_or_back_is_not_believed_until_a_cloud_agrees_twice() {
        for wall in [at(61), Timestamp::from_millis(at(0).as_millis() - 3_600_000)] {
            let mut clock = ClockWatch::new(None, at(0), Duration::ZERO);
            assert_eq!(clock.tick(wall, MINUTE), at(1), "time goes on as if nothing had happened");
            assert!(!clock.is_trusted());
            clock.handle_cloud_time(at(1), wall, MINUTE);
            clock.handle_cloud_time(wall, wall, MINUTE);
            assert!(!clock.is_trusted());
            clock.handle_cloud_time(wall, wall, MINUTE);
            assert!(clock.is_trusted());
            assert_eq!(clock.tick(wall, MINUTE), wall);
            assert!(clock.is_trusted());
        }
    }

    #[test]
    fn without_a_cloud_an_hour_of_even_time_is_enough() {
        let mut clock = ClockWatch::new(None, at(0), Duration::ZERO);
        clock.tick(at(120), Duration::ZERO);
        clock.tick(at(150), MINUTE * 30);
        assert!(!clock.is_trusted());
        clock.tick(at(90), MINUTE * 31);
        clock.tick(at(149), MINUTE * 90);
        assert!(!clock.is_trusted(), "it moved again at minute 31");
        clock.tick(at(150), MINUTE * 91);
        assert!(clock.is_trusted());
    }

    #[test]
    fn after_hours_away_a_cloud_has_to_agree() {
        let mut clock = ClockWatch::new(Some(at(0)), at(120), Duration::ZERO);
        assert!(!clock.is_trusted());
        for _ in 0..2 {
            clock.tick(at(120), Duration::ZERO);
            clock.handle_cloud_time(at(121), at(120), Duration::ZERO);
        }
        assert!(clock.is_trusted());
        assert!(ClockWatch::new(Some(at(0)), at(4), Duration::ZERO).is_trusted());
        assert!(!ClockWatch::new(Some(at(60)), at(0), HOUR).is_trusted());
    }
}
