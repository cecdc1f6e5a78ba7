//! Whose a machine is, as it is written down in its folder.

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{InstanceSpec, Tags};
use serde::{Deserialize, Serialize};

/// What a machine was ordered as.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Label {
    hub: Option<HubId>,
    deployment: Option<String>,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    plan: String,
    #[serde(default)]
    region: String,
    /// It may be taken back.
    #[serde(default)]
    pub(crate) spot: bool,
}

impl Label {
    /// That of a machine to be made.
    pub(crate) fn of(spec: &InstanceSpec) -> Self {
        Self {
            hub: spec.tags.as_ref().map(|tags| tags.hub),
            deployment: spec.tags.as_ref().map(|tags| tags.deployment.to_string()),
            attempt: spec.tags.as_ref().map_or(0, |tags| tags.attempt),
            plan: spec.plan.clone(),
            region: spec.region.clone(),
            spot: spec.spot,
        }
    }

    /// Its tags; `None` where it belongs to nobody.
    pub(crate) fn tags(&self) -> Option<Tags> {
        let deployment = self.deployment.as_deref()?.parse().ok()?;
        Some(Tags { hub: self.hub?, deployment, attempt: self.attempt })
    }
}
