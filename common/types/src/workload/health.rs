//! How the health of a workload is checked, and what is done where it stays bad.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CheckPace, CheckPaceError, HealthCheck};

/// How the health of a workload is checked, and what is done where it stays bad.
///
/// What is checked is the port that the workload registers over its bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// How.
    pub check: HealthCheck,
    /// How often, and how many results count.
    pub pace: CheckPace,
    /// What is done where it stays bad, or the process ends again and again.
    pub recovery: Recovery,
}

impl HealthSettings {
    /// Whether nothing was said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every number.
    ///
    /// # Errors
    ///
    /// The first that is out of its bounds.
    pub fn validate(&self) -> Result<(), CheckPaceError> {
        self.pace.check()?;
        self.recovery.check()
    }
}

/// The rungs of recovery and how often each is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// Seconds in a row for which a workload that runs may be unhealthy before something is done; 1 to 3600. Default 60.
    pub patience_secs: u32,
    /// Restarts in place, 0 to 100. Default 5.
    pub restarts: u32,
    /// Deployments anew on the same node, 0 to 20. Default 2.
    pub redeploys: u32,
    /// Moves to other nodes within an hour, 0 to 12. Default 3.
    pub moves_per_hour: u32,
    /// Seconds of good health after which all rungs are begun anew, 1 to 86400. Default 600.
    pub settled_secs: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { patience_secs: 60, restarts: 5, redeploys: 2, moves_per_hour: 3, settled_secs: 600 }
    }
}

impl Recovery {
    /// Checks every number.
    ///
    /// # Errors
    ///
    /// The first that is out of its bounds.
    pub fn check(&self) -> Result<(), CheckPaceError> {
        for (field, value, least, most) in [
            ("recovery.patience_secs", self.patience_secs, 1, 3600),
            ("recovery.restarts", self.restarts, 0, 100),
            ("recovery.redeploys", self.redeploys, 0, 20),
            ("recovery.moves_per_hour", self.moves_per_hour, 0, 12),
            ("recovery.settled_secs", self.settled_secs, 1, 86_400),
        ] {
            if !(least..=most).contains(&value) {
                return Err(CheckPaceError { field, value, least, most });
            }
        }
        Ok(())
    }

    /// How long a workload that runs may be unhealthy.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_secs.into())
    }

    /// How long it has to be well until all is forgotten.
    #[must_use]
    pub fn settled(&self) -> Duration {
        Duration::from_secs(self.settled_secs.into())
    }
}
