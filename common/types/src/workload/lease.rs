//! Whose a workload is that a launcher started: it ends with its launcher.

use serde::{Deserialize, Serialize};

/// Longest time that a workload outlives its launcher, in seconds.
pub const MAX_LEASE_SECS: u32 = 600;

/// Time that it outlives its launcher where the launcher does not say, in seconds.
pub const DEFAULT_LEASE_SECS: u32 = 15;

/// Letters of a launcher's name at most.
const MAX_NAME: usize = 64;

/// A workload that lasts as long as the launcher that started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The process of the launcher: a random name that none has twice.
    pub launcher: String,
    /// Seconds that the workload outlives the launcher's connection to the hub, 1 to [`MAX_LEASE_SECS`].
    pub secs: u32,
}

/// What is wrong with a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Not the name of a launcher.
    #[error("launcher is not 1 to 64 letters and digits")]
    Launcher,
    /// Too short or too long.
    #[error("secs is {0}, and has to be 1 to {MAX_LEASE_SECS}")]
    Secs(u32),
}

impl Lease {
    /// Checks both fields.
    ///
    /// # Errors
    ///
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), LeaseError> {
        let is_name = !self.launcher.is_empty()
            && self.launcher.len() <= MAX_NAME
            && self.launcher.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            return Err(LeaseError::Launcher);
        }
        if !(1..=MAX_LEASE_SECS).contains(&self.secs) {
            return Err(LeaseError::Secs(self.secs));
        }
        Ok(())
    }
}
