//! How an update is to go, as the operator asks for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most steps of a canary.
pub const MAX_STEPS: usize = 10;

/// Longest time that a plan may name for one thing, in seconds: a day.
pub const MAX_PLAN_SECS: u32 = 86_400;

/// The way from one version to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One instance after the other, each once the next is healthy. A service has one instance here, so this is
    /// blue-green that keeps the old version no longer than its open requests last.
    Rolling,
    /// The next version beside the old one; all requests move at once, and the old one is kept for the pause.
    BlueGreen,
    /// The next version beside the old one; requests move in steps.
    Canary,
    /// The old version ends, then the next one starts. The only way where two cannot run at once.
    Recreate,
}

impl Strategy {
    /// Its name on the command line.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
            Self::Recreate => "recreate",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text names no strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not rolling, blue-green, canary or recreate")]
pub struct ParseStrategyError;

impl FromStr for Strategy {
    type Err = ParseStrategyError;

    fn from_str(text: &str) -> Result<Self, ParseStrategyError> {
        let all = [Self::Rolling, Self::BlueGreen, Self::Canary, Self::Recreate];
        all.into_iter().find(|strategy| strategy.label() == text).ok_or(ParseStrategyError)
    }
}

/// How an update goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdatePlan {
    /// The way.
    pub strategy: Strategy,
    /// Hundredths of the requests that a canary gets, one after the other; each larger than the one before.
    pub canary: Vec<u8>,
    /// Seconds of each step of a canary; of blue-green, how long the old version is kept after the move.
    pub pause_secs: u32,
    /// Seconds that the next version has to be healthy without a break before it gets anything.
    pub health_secs: u32,
    /// Seconds until it has to be healthy for the first time; fetching what it is made of is a part of that.
    pub start_secs: u32,
    /// Seconds that open requests of the version that goes may last.
    pub drain_secs: u32,
    /// Whether its health is left out: it is enough that it runs and is registered.
    pub skip_health_check: bool,
}

impl Default for UpdatePlan {
    fn default() -> Self {
        Self {
            strategy: Strategy::BlueGreen,
            canary: vec![10, 50],
            pause_secs: 30,
            health_secs: 60,
            start_secs: 600,
            drain_secs: 60,
            skip_health_check: false,
        }
    }
}

/// What is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The steps.
    #[error("canary: one to {MAX_STEPS} steps from 1 to 99, each larger than the one before")]
    Steps,
    /// A time.
    #[error("{0}: more than {MAX_PLAN_SECS} s")]
    TooLong(&'static str),
    /// No time to start.
    #[error("start_secs: less than 1 s")]
    NoStart,
}

impl UpdatePlan {
    /// Checks it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        let grows = self.canary.windows(2).all(|pair| pair.first() < pair.last());
        let fits = self.canary.iter().all(|step| (1..=99).contains(step));
        if !grows || !fits || self.canary.is_empty() || self.canary.len() > MAX_STEPS {
            return Err(PlanError::Steps);
        }
        for (name, secs) in [
            ("pause_secs", self.pause_secs),
            ("health_secs", self.health_secs),
            ("start_secs", self.start_secs),
            ("drain_secs", self.drain_secs),
        ] {
            if secs > MAX_PLAN_SECS {
                return Err(PlanError::TooLong(name));
            }
        }
        if self.start_secs == 0 { Err(PlanError::NoStart) } else { Ok(()) }
    }

    pub(super) fn pause(&self) -> Duration {
        Duration::from_secs(self.pause_secs.into())
    }

    pub(super) fn health(&self) -> Duration {
        Duration::from_secs(if self.skip_health_check { 0 } else { self.health_secs.into() })
    }

    pub(super) fn start(&self) -> Duration {
        Duration::from_secs(self.start_secs.into())
    }

    pub(super) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_secs.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_make_no_sense_are_refused() {
        assert_eq!(UpdatePlan::default().check(), Ok(()));
        for canary in [vec![], vec![0], vec![100], vec![50, 10], vec![5, 5], (1..=11).collect()] {
            let plan = UpdatePlan { canary, ..UpdatePlan::default() };
            assert_eq!(plan.check(), Err(PlanError::Steps), "{:?}", plan.canary);
        }
        let long = UpdatePlan { pause_secs: MAX_PLAN_SECS + 1, ..UpdatePlan::default() };
        assert_eq!(long.check(), Err(PlanError::TooLong("pause_secs")));
        let none = UpdatePlan { start_secs: 0, ..UpdatePlan::default() };
        assert_eq!(none.check(), Err(PlanError::NoStart));
    }

    #[test]
    fn strategies_survive_their_names() {
        for strategy in [Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary, Strategy::Recreate] {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        assert!("green".parse::<Strategy>().is_err());
    }
}
