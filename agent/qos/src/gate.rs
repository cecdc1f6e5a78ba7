//! A health out of the results of many checks.

use blueprint_common_types::Health;

use crate::CheckResult;

/// How many results in a row change a health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row that make a service unhealthy. Default 2; zero counts as 1.
    pub fall: u32,
    /// Successes in a row that make an unhealthy service healthy. Default 1; zero counts as 1.
    pub rise: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { fall: 2, rise: 1 }
    }
}

/// Keeps a service's health from following every single check.
///
/// ```text
///   Unknown --success--> Healthy --fall failures--> Unhealthy --rise successes--> Healthy
///      +-------------------fall failures--------------^
/// ```
///
/// Invariants: the first success of an unknown service suffices; a success between two failures starts their
/// count anew, and the other way round.
#[derive(Debug)]
pub struct HealthGate {
    thresholds: Thresholds,
    health: Health,
    reason: String,
    failures: u32,
    successes: u32,
}

impl HealthGate {
    /// A gate that knows nothing yet.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        let reason = "not checked yet".to_owned();
        Self { thresholds, health: Health::Unknown, reason, failures: 0, successes: 0 }
    }

    /// Takes one result in; true where the health or the reason it shows changed.
    pub fn handle_result(&mut self, result: &CheckResult) -> bool {
        let health = if result.ok { self.health_after_success() } else { self.health_after_failure() };
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
            Health::Unhealthy if self.successes < self.thresholds.rise => Health::Unhealthy,
            Health::Unknown | Health::Healthy | Health::Unhealthy => Health::Healthy,
        }
    }

    fn health_after_failure(&mut self) -> Health {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.thresholds.fall { self.health } else { Health::Unhealthy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gate: &mut HealthGate, results: &str) -> Vec<Health> {
        let result = |ok| CheckResult { ok, micros: 1, reason: if ok { "" } else { "refused" }.to_owned() };
        let mut one = |letter| {
            gate.handle_result(&result(letter == '+'));
            gate.health()
        };
        results.chars().map(&mut one).collect()
    }

    #[test]
    fn the_first_success_suffices_and_one_failure_does_not_hurt() {
        use Health::{Healthy, Unhealthy, Unknown};
        let mut gate = HealthGate::new(Thresholds::default());
        assert_eq!(gate.health(), Unknown);
        assert_eq!(run(&mut gate, "+-+--+"), [Healthy, Healthy, Healthy, Healthy, Unhealthy, Healthy]);
        let mut gate = HealthGate::new(Thresholds::default());
        assert_eq!(run(&mut gate, "--"), [Unknown, Unhealthy]);
        assert_eq!(gate.reason(), "refused");
    }

    #[test]
    fn a_higher_rise_keeps_a_flapping_service_out() {
        let mut gate = HealthGate::new(Thresholds { fall: 2, rise: 3 });
        run(&mut gate, "+--");
        assert_eq!(run(&mut gate, "+-+-++-"), [Health::Unhealthy; 7]);
        assert_eq!(run(&mut gate, "+++").last(), Some(&Health::Healthy));
        assert_eq!(gate.reason(), "");
    }

    #[test]
    fn only_a_change_is_told() {
        let mut gate = HealthGate::new(Thresholds::default());
        let ok = CheckResult { ok: true, micros: 1, reason: String::new() };
        let refused = CheckResult { ok: false, micros: 1, reason: "refused".to_owned() };
        let silent = CheckResult { ok: false, micros: 1, reason: "silent".to_owned() };
        let told = [&ok, &ok, &refused, &refused, &refused, &silent, &ok].map(|r| gate.handle_result(r));
        assert_eq!(told, [true, false, false, true, false, true, true]);
    }
}
