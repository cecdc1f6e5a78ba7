//! A machine that a provider runs for the hub, and what the hub says to get one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret, Timestamp};

use crate::DeploymentId;
use crate::resource::Arch;

/// A text is not the key of an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an instance key: 1 to 63 of a-z, 0-9 and '-', with no '-' at either end, were expected"
)]
pub struct ParseInstanceKeyError(String);

/// What the hub calls an instance: it is chosen before the first call to a cloud, is the idempotency key of
/// that call and a tag on everything made by it.
///
/// It is a DNS label in lower case, so it serves as host name, tag and folder name without quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey(String);

impl InstanceKey {
    /// The key of a deployment's machine of this number.
    #[must_use]
    pub fn of(deployment: &DeploymentId, number: u32) -> Self {
        Self(format!("bp-{deployment}-{number}"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for InstanceKey {
    type Err = ParseInstanceKeyError;

    fn from_str(text: &str) -> Result<Self, ParseInstanceKeyError> {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_label = (1..=63).contains(&text.len())
            && text.bytes().all(is_inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_label {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseInstanceKeyError(text.chars().take(64).collect()))
        }
    }
}

/// Whose a machine is; set at its creation and carried by everything made with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// The hub that ordered it. Two hubs may share an account, and neither touches what is the other's.
    pub hub: HubId,
    /// The deployment that it was ordered for.
    pub deployment: DeploymentId,
    /// Which call for its key made it, from 1: each has a join token of its own.
    pub attempt: u32,
}

/// The machine wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// What the hub calls it.
    pub key: InstanceKey,
    /// Whose it is; `None` for one that no reconciler looks after.
    pub tags: Option<Tags>,
    /// The provider's name of the kind of machine.
    pub plan: String,
    /// The provider's name of the place.
    pub region: String,
    /// Whether the provider may take it back at any time, for less money.
    pub spot: bool,
    /// GB that its system disk has at least; 0 for what the plan has.
    pub disk_gb: u32,
    /// Kind of processor that the plan has, which the image has to be for.
    pub arch: Arch,
    /// How long it is wanted from now on, where that has an end: clouds that can end machines by themselves are told, for the case
    /// that the hub is gone by then.
    pub ttl: Option<Duration>,
    /// What the machine reads at its first boot; it holds a join token.
    pub user_data: Secret<String>,
}

/// What a machine does, as far as its provider sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceState {
    /// Ordered or booting.
    Starting,
    /// Runs; whether its agent joined is for the registry to say.
    Running,
    /// On its way out.
    Stopping,
    /// Exists and does not run.
    Stopped,
    /// Does not run and is paid for as if it did, until it is told to stop: switched off from inside, at Azure.
    Halted,
    /// Made in part: it never ran and was not told what to run. Another call for its key finishes it.
    Unfinished,
    /// Ended by itself.
    Failed {
        /// What the provider knows of it, one line.
        reason: String,
    },
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Halted => "halted",
            Self::Unfinished => "unfinished",
            Self::Failed { .. } => "failed",
        })
    }
}

/// A machine that a provider runs for the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// What the hub calls it.
    pub key: InstanceKey,
    /// What the cloud calls it; unique within the provider.
    pub provider_id: String,
    /// Whose it is; `None` where it does not say, so that nobody but a person touches it.
    pub tags: Option<Tags>,
    /// What it does.
    pub state: InstanceState,
    /// When the cloud made it.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_dns_label() {
        let longest = "a".repeat(63);
        for right in ["sim-1", "a", "0", "a--b", longest.as_str()] {
            assert_eq!(right.parse::<InstanceKey>().unwrap().as_str(), right);
        }
        let too_long = "a".repeat(64);
        for wrong in ["", "-a", "a-", "A", "a.b", "..", "a/b", "a b", "ä", "a\0", too_long.as_str()] {
            assert!(wrong.parse::<InstanceKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_spec_prints_without_its_user_data() {
        let spec = InstanceSpec {
            key: "sim-1".parse().unwrap(),
            tags: None,
            plan: "sim-small".to_owned(),
            region: "here".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new("canary".to_owned()),
        };
        assert!(!format!("{spec:?}").contains("canary"));
    }
}
