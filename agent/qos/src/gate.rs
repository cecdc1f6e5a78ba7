//! A health out of the results of many checks.

use std::time::Instant;

use blueprint_common_types::{CheckPace, Health};

use crate::CheckResult;

/// Keeps a service's health from following every single check.
///
/// ```text
///   Unknown --success--> Healthy --fall failures--> Unhealthy --rise successes--> Healthy
///      +-------------------fall failures--------------^
/// ```
///
/// Invariants: the first success of an unknown service suffices; a success between two failures starts their
/// count anew, and the other way round; until the grace is over or a first success came, failures do not count.
#[derive(Debug)]
pub struct HealthGate {
    pace: CheckPace,
    began_at: Instant,
    health: Health,
    reason: String,
    failures: u32,
    successes: u32,
}

impl HealthGate {
    /// A gate that knows nothing yet; the grace begins.
    #[must_use]
    pub fn new(pace: CheckPace, now: Instant) -> Self {
        let reason = "not checked yet".to_owned();
        Self { pace, began_at: now, health: Health::Unknown, reason, failures: 0, successes: 0 }
    }

    /// Takes one result in; true where the health or the reason it shows changed.
    pub fn handle_result(&mut self, result: &CheckResult, now: Instant) -> bool {
        let health = if result.ok { self.health_after_success() } else { self.health_after_failure(now) };
        let reason = match health {
            Health::Healthy => "",
            Health::Unknown | Health::Unhealthy if result.ok => self.reason.as_str(),
            Health::Unknown | Health::Unhealthy => result.reason.as_str(),
        };
        if health == self.health && reason == self.reason {
            return false;
        }
        self.reason = reason.to_owned();
        self.health = health;
        true
    }

    /// The health as of the last result.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Why the service is not healthy, one line; empty where it is.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    fn health_after_success(&mut self) -> Health {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        match self.health {
            Health::Unhealthy if self.successes < self.pace.rise => Health::Unhealthy,
            Health::Unknown | Health::Healthy | Health::Unhealthy => Health::Healthy,
        }
    }

    fn health_after_failure(&mut self, now: Instant) -> Health {
        self.successes = 0;
        let is_starting = now.saturating_duration_since(self.began_at) < self.pace.grace();
        if self.health == Health::Unknown && is_starting {
            return Health::Unknown;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.pace.fall { self.health } else { Health::Unhealthy }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn gate(fall: u32, rise: u32, grace_secs: u32) -> (HealthGate, Instant) {
        let now = Instant::now();
        (HealthGate::new(CheckPace { fall, rise, grace_secs, ..CheckPace::default() }, now), now)
    }

    fn result(ok: bool) -> CheckResult {
        CheckResult { ok, micros: 1, reason: if ok { "" } else { "refused" }.to_owned() }
    }

    fn run(gate: &mut HealthGate, now: Instant, results: &str) -> Vec<Health> {
        let mut one = |letter| {
            gate.handle_result(&result(letter == '+'), now);
            gate.health()
        };
        results.chars().map(&mut one).collect()
    }

    #[test]
    fn the_first_success_suffices_and_one_failure_does_not_hurt() {
        use Health::{Healthy, Unhealthy, Unknown};
        let (mut one, now) = gate(2, 1, 0);
        assert_eq!(one.health(), Unknown);
        assert_eq!(run(&mut one, now, "+-+--+"), [Healthy, Healthy, Healthy, Healthy, Unhealthy, Healthy]);
        let (mut two, now) = gate(2, 1, 0);
        assert_eq!(run(&mut two, now, "--"), [Unknown, Unhealthy]);
        assert_eq!(two.reason(), "refused");
    }

    #[test]
    fn a_higher_rise_keeps_a_flapping_service_out() {
        let (mut gate, now) = gate(2, 3, 0);
        run(&mut gate, now, "+--");
        assert_eq!(run(&mut gate, now, "+-+-++-"), [Health::Unhealthy; 7]);
        assert_eq!(run(&mut gate, now, "+++").last(), Some(&Health::Healthy));
        assert_eq!(gate.reason(), "");
    }

    #[test]
    fn failures_of_a_service_that_starts_do_not_count_and_its_reason_is_told() {
        let (mut slow, now) = gate(2, 1, 30);
        assert_eq!(run(&mut slow, now + Duration::from_secs(29), "----"), [Health::Unknown; 4]);
        assert_eq!(slow.reason(), "refused");
        let late = now + Duration::from_secs(30);
        assert_eq!(run(&mut slow, late, "--"), [Health::Unknown, Health::Unhealthy]);
        let (mut quick, now) = gate(2, 1, 30);
        assert_eq!(run(&mut quick, now, "+--").last(), Some(&Health::Unhealthy), "it had started");
    }

    #[test]
    fn only_a_change_is_told() {
        let (mut gate, now) = gate(2, 1, 0);
        let refused = result(false);
        let silent = CheckResult { reason: "silent".to_owned(), ..result(false) };
        let ok = result(true);
        let told = [&ok, &ok, &refused, &refused, &refused, &silent, &ok].map(|r| gate.handle_result(r, now));
        assert_eq!(told, [true, false, false, true, false, true, true]);
    }

    proptest! {
        #[test]
        fn a_health_changes_at_most_once_in_as_many_results_as_its_threshold(
            results in prop::collection::vec(any::<bool>(), 0..300), fall in 1u32..6, rise in 1u32..6,
        ) {
            let (mut gate, now) = gate(fall, rise, 0);
            let (mut streak, mut last, mut before) = (0u32, None, gate.health());
            for ok in results {
                streak = if last == Some(ok) { streak + 1 } else { 1 };
                last = Some(ok);
                gate.handle_result(&result(ok), now);
                let health = gate.health();
                if health != before {
                    let needed = match (before, health) {
                        (Health::Unknown, Health::Healthy) => 1,
                        (_, Health::Healthy) => rise,
                        _ => fall,
                    };
                    prop_assert_eq!(streak, needed, "{} became {}", before, health);
                }
                before = health;
            }
        }
    }
}
