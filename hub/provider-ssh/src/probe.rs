//! What a host says of itself.

use blueprint_hub_provision_core::InstanceState;

use crate::claim::Claim;
use crate::error::HostError;
use crate::transport::Said;

/// What there is on a host.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its claim, and what the machine of it does.
    pub(crate) claim: Option<(Claim, InstanceState)>,
    /// Why it cannot be claimed, where it is not.
    pub(crate) unfit: Option<HostError>,
}

impl Found {
    /// What `said` comes to.
    ///
    /// # Errors
    ///
    /// [`HostError::Nonsense`] where its claim is none.
    pub(crate) fn read(said: &Said) -> Result<Self, HostError> {
        let lines = said.all("claim");
        if lines.is_empty() {
            let what = said.all("lacks").join(", ");
            let unfit = if said.word("foreign").is_some() {
                Some(HostError::Foreign)
            } else if what.is_empty() {
                None
            } else {
                Some(HostError::Lacks { what: what.chars().filter(|c| !c.is_control()).take(200).collect() })
            };
            return Ok(Self { claim: None, unfit });
        }
        let claim = Claim::read(lines.iter().map(String::as_str)).ok_or_else(|| HostError::Nonsense {
            said: "/etc/blueprint-host/claim is no claim of this version".to_owned(),
        })?;
        Ok(Self { claim: Some((claim, state(said))), unfit: None })
    }
}

/// What the machine does: its agent counts, not the host, which runs as long as it answers.
fn state(said: &Said) -> InstanceState {
    let is = |word: &str, value: &str| said.word(word) == Some(value);
    let agent_runs = is("agent", "active") || is("agent", "activating") || is("agent", "reloading");
    if is("stopped", "yes") {
        return if agent_runs || is("agent", "deactivating") {
            InstanceState::Stopping
        } else {
            InstanceState::Stopped
        };
    }
    if agent_runs {
        return InstanceState::Running;
    }
    if !is("installed", "yes") {
        return InstanceState::Failed { reason: "its installation was interrupted".to_owned() };
    }
    let is_early = is("system", "starting")
        || is("system", "initializing")
        || is("bootstrap", "activating")
        // It ends without a node where it could not join in time, which the hub sees by itself.
        || is("bootstrap", "failed");
    if is_early {
        return InstanceState::Starting;
    }
    InstanceState::Failed { reason: "its agent does not run".to_owned() }
}
