//! The tags that say whose a machine is.

use std::collections::BTreeMap;

use blueprint_hub_provision_core::{InstanceSpec, Tags};

/// The machine's key; what has it was made by a hub.
pub(crate) const KEY: &str = "blueprint-instance";
/// The hub's id.
pub(crate) const HUB: &str = "blueprint-hub";
/// The deployment's id.
pub(crate) const DEPLOYMENT: &str = "blueprint-deployment";
/// Number of the call that made it.
pub(crate) const ATTEMPT: &str = "blueprint-attempt";
/// On a security group, with the value [`NO_INGRESS`].
pub(crate) const GROUP: &str = "blueprint-group";
/// The group that lets nothing in.
pub(crate) const NO_INGRESS: &str = "no-ingress";

/// The tags of a new machine and of its disk.
pub(crate) fn write(spec: &InstanceSpec) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Name", spec.key.to_string()), (KEY, spec.key.to_string())];
    if let Some(tags) = &spec.tags {
        rows.push((HUB, tags.hub.to_string()));
        rows.push((DEPLOYMENT, tags.deployment.to_string()));
        rows.push((ATTEMPT, tags.attempt.to_string()));
    }
    rows
}

/// Whose it is; `None` where the tags do not say.
pub(crate) fn read(tags: &BTreeMap<String, String>) -> Option<Tags> {
    Some(Tags {
        hub: tags.get(HUB)?.parse().ok()?,
        deployment: tags.get(DEPLOYMENT)?.parse().ok()?,
        attempt: tags.get(ATTEMPT)?.parse().ok()?,
    })
}
