//! What a machine left behind when it went: its interface, address and disk, which Azure removes with it unless something fails.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provision_core::{
    DeploymentId, Instance, InstanceKey, InstanceState, ProviderError, Tags, Tidied,
};
use http::Method;
use serde::Deserialize;
use tracing::info;

use crate::api::{Call, Sent, call, is_absent, success, version};
use crate::cloud::Azure;
use crate::errors::About;
use crate::operation::Followed;
use crate::order::{self, PART};
use crate::tags::{self, Written};

pub(crate) const LIST: Call = call(
    "Resources_ListByResourceGroup",
    "Microsoft.Resources/subscriptions/resourceGroups/resources/read",
    version::RESOURCES,
);
pub(crate) const NIC_DELETE: Call =
    call("NetworkInterfaces_Delete", "Microsoft.Network/networkInterfaces/delete", version::NETWORK);
pub(crate) const ADDRESS_DELETE: Call =
    call("PublicIPAddresses_Delete", "Microsoft.Network/publicIPAddresses/delete", version::NETWORK);
pub(crate) const DISK_DELETE: Call = call("Disks_Delete", "Microsoft.Compute/disks/delete", version::DISKS);
pub(crate) const SECURITY_DELETE: Call =
    call("NetworkSecurityGroups_Delete", "Microsoft.Network/networkSecurityGroups/delete", version::NETWORK);
pub(crate) const NETWORK_DELETE: Call =
    call("VirtualNetworks_Delete", "Microsoft.Network/virtualNetworks/delete", version::NETWORK);

/// What machines stand behind, in the order in which it can be removed: a subnet goes by its security group.
const NETWORK: [(&str, Call); 2] = [
    ("microsoft.network/virtualnetworks", NETWORK_DELETE),
    ("microsoft.network/networksecuritygroups", SECURITY_DELETE),
];

/// The kinds, in the order in which they can be removed (an address only without its interface), and what the name of each ends
/// with where the hub's own order made it.
const KINDS: [(&str, &str, Call); 3] = [
    ("microsoft.network/networkinterfaces", order::NIC, NIC_DELETE),
    ("microsoft.network/publicipaddresses", order::ADDRESS, ADDRESS_DELETE),
    ("microsoft.compute/disks", order::DISK, DISK_DELETE),
];

/// How long a machine may take to come into the list.
const YOUNG: Duration = Duration::from_secs(600);

/// A resource of the group.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resource {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    tags: Option<Written>,
    #[serde(default)]
    created_time: Option<String>,
}

impl Resource {
    /// How it is removed; `None` for what is nothing that comes with a machine.
    fn remover(&self) -> Option<(usize, Call)> {
        let kind = self.kind.to_ascii_lowercase();
        KINDS
            .iter()
            .enumerate()
            .find(|(_, (own, ..))| *own == kind)
            .map(|(order, (_, _, call))| (order, *call))
    }

    /// Whose machine it came with: by its tags, else by its name, for that Azure hands tags on is not certain. Without tags only
    /// the very name that the order gave to this kind counts: portals call the disks that people add `MACHINE_DataDisk_0`.
    fn key(&self) -> Option<InstanceKey> {
        let tags = self.tags.clone().unwrap_or_default();
        tags::key(&tags).or_else(|| {
            let kind = self.kind.to_ascii_lowercase();
            let (_, end, _) = KINDS.iter().find(|(own, ..)| *own == kind)?;
            let name = self.name.to_ascii_lowercase();
            let (key, rest) = name.split_once(PART)?;
            (rest == *end || is_numbered(rest, end)).then(|| key.parse().ok()).flatten()
        })
    }
}

/// True for the name of an interface that Azure gave a hexadecimal end of its own.
fn is_numbered(rest: &str, end: &str) -> bool {
    let own = rest.strip_prefix(end).and_then(|own| own.strip_prefix('-'));
    end == order::NIC
        && own.is_some_and(|own| own.len() >= 4 && own.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Azure {
    /// Everything in the resource group; `created_time` comes with it.
    pub(crate) async fn resources(&self) -> Result<Vec<Resource>, ProviderError> {
        let path = format!("{}/resources?%24expand=createdTime", self.within());
        Ok(self.api.list(LIST, &path).await?.0)
    }

    /// Leftovers as machines that ended, one for each key that is not among `standing`, so that who lists sees them and deletes them.
    pub(crate) fn left(
        &self,
        resources: &[Resource],
        standing: impl Fn(&InstanceKey) -> bool,
        now: Timestamp,
    ) -> Vec<Instance> {
        let mut left: BTreeMap<InstanceKey, Instance> = BTreeMap::new();
        for resource in resources.iter().filter(|resource| resource.remover().is_some()) {
            let Some(key) = resource.key().filter(|key| !standing(key)) else { continue };
            let tags = self.whose(resource, &key);
            let created =
                resource.created_time.as_deref().and_then(|text| humantime::parse_rfc3339_weak(text).ok());
            let instance = left.entry(key.clone()).or_insert_with(|| Instance {
                provider_id: key.to_string(),
                key,
                tags: tags.clone(),
                state: state_of(created.map_or(now, Timestamp::from), now),
                created_at: created.map_or(now, Timestamp::from),
            });
            // One part that says whose it is speaks for all.
            instance.tags = tags.filter(|tags| tags.attempt > 0).or_else(|| instance.tags.clone());
        }
        left.into_values().collect()
    }

    /// By its tags; what has none in the group of this hub is this hub's, of no known call.
    fn whose(&self, resource: &Resource, key: &InstanceKey) -> Option<Tags> {
        let written = resource.tags.clone().unwrap_or_default();
        if tags::key(&written).is_some() {
            return tags::whose(&written);
        }
        let (deployment, _) = key.as_str().strip_prefix("bp-")?.rsplit_once('-')?;
        let deployment: DeploymentId = deployment.parse().ok()?;
        Some(Tags { hub: self.config.hub, deployment, attempt: 0 })
    }

    /// Removes what the machine of this key left behind.
    ///
    /// # Errors
    ///
    /// As Azure answers; a part that another still holds is [`ProviderError::Busy`].
    pub(crate) async fn clear(&self, key: &InstanceKey) -> Result<(), ProviderError> {
        let mut parts: Vec<_> = self
            .resources()
            .await?
            .into_iter()
            .filter(|resource| resource.key().as_ref() == Some(key))
            .filter(|resource| self.whose(resource, key).is_some_and(|whose| whose.hub == self.config.hub))
            .filter_map(|resource| Some((resource.remover()?, resource)))
            .collect();
        parts.sort_by_key(|((order, _), _)| *order);
        for ((_, call), resource) in parts {
            let kind = &resource.kind;
            let path = format!("{}/providers/{kind}/{}", self.within(), resource.name);
            let answer = self.api.send(call, Method::DELETE, &path, Sent::default()).await?;
            if is_absent(&answer) {
                continue;
            }
            let answer = success(call, answer)?;
            // An address can go only once its interface has.
            self.api.follow(call, &answer, self.config.follow_within / 3).await?;
            info!(target: "audit", provider = "azure", instance = %key, kind, "leftover of a machine deleted");
        }
        Ok(())
    }
}

impl Azure {
    /// Deletes networks and security groups of this hub. The resource group stays: it may hold what people put there, and costs
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] where Azure is still at it; else as Azure answers.
    pub(crate) async fn remove_network(&self, hub: HubId, tidied: &mut Tidied) -> Result<(), ProviderError> {
        let resources = self.resources().await?;
        for (kind, call) in NETWORK {
            let is_own = |one: &&Resource| {
                let whose = one.tags.as_ref().and_then(|tags| tags.get(tags::HUB));
                one.kind.eq_ignore_ascii_case(kind) && whose.is_some_and(|whose| *whose == hub.to_string())
            };
            for resource in resources.iter().filter(is_own) {
                let Resource { kind, name, .. } = resource;
                let path = format!("{}/providers/{kind}/{name}", self.within());
                let answer = self.api.send(call, Method::DELETE, &path, Sent::default()).await?;
                if is_absent(&answer) {
                    continue;
                }
                let answer = success(call, answer)?;
                let what = format!("{kind} {name}");
                match self.api.follow(call, &answer, self.config.follow_within).await? {
                    Followed::Done => {
                        info!(target: "audit", provider = "azure", kind, name, "network resource deleted");
                        tidied.removed.push(what);
                    }
                    Followed::Going => {
                        return Err(ProviderError::Busy {
                            reason: format!("Azure is still deleting {what}"),
                        });
                    }
                    Followed::Failed(refusal) => return Err(refusal.into_error(call, &About::default())),
                }
            }
        }
        if !resources.is_empty() || !tidied.removed.is_empty() {
            tidied.kept.push(format!(
                "resource group {}: it may hold what others put there and costs nothing; delete it by hand where it is empty",
                self.group
            ));
        }
        Ok(())
    }
}

/// A part without a machine is one that is on its way out. A young one may be that of a machine which the list does not show yet, and is
/// not taken for one that failed.
fn state_of(created: Timestamp, now: Timestamp) -> InstanceState {
    if now.since(created) < YOUNG {
        return InstanceState::Stopping;
    }
    InstanceState::Failed { reason: "its machine is gone, and parts of it are left".to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(kind: &str, name: &str) -> Resource {
        serde_json::from_value(json!({ "name": name, "type": kind })).unwrap()
    }

    #[test]
    fn only_what_comes_with_a_machine_is_a_leftover() {
        let nic = resource("Microsoft.Network/networkInterfaces", "bp-aaaaaaaaaaaaaaaa-1_nic-0f3c");
        assert_eq!(nic.key(), "bp-aaaaaaaaaaaaaaaa-1".parse().ok());
        assert_eq!(
            nic.remover().map(|(order, call)| (order, call.name)),
            Some((0, "NetworkInterfaces_Delete"))
        );
        for kind in [
            "Microsoft.Compute/virtualMachines",
            "Microsoft.Network/networkSecurityGroups",
            "Microsoft.Compute/snapshots",
        ] {
            assert!(resource(kind, "x_y").remover().is_none(), "{kind}");
        }
        for (kind, end) in [
            ("Microsoft.Compute/disks", "disk"),
            ("Microsoft.Network/publicIPAddresses", "ip"),
            ("Microsoft.Network/networkInterfaces", "nic"),
        ] {
            assert!(resource(kind, &format!("BP-aaaaaaaaaaaaaaaa-1_{end}")).key().is_some(), "{end}");
        }
        for (kind, name) in [
            ("Microsoft.Compute/disks", "backup of people"),
            ("Microsoft.Compute/disks", "bp-aaaaaaaaaaaaaaaa-1_DataDisk_0"),
            ("Microsoft.Compute/disks", "bp-aaaaaaaaaaaaaaaa-1_disk_old"),
            ("Microsoft.Compute/disks", "bp-aaaaaaaaaaaaaaaa-1_nic"),
            ("Microsoft.Compute/disks", "bp-aaaaaaaaaaaaaaaa-1_disk-0f3c"),
            ("Microsoft.Network/networkInterfaces", "bp-aaaaaaaaaaaaaaaa-1_nic2"),
            ("Microsoft.Network/networkInterfaces", "bp-aaaaaaaaaaaaaaaa-1_nic-mine"),
            ("Microsoft.Network/publicIPAddresses", "bp-aaaaaaaaaaaaaaaa-1_static"),
        ] {
            assert_eq!(resource(kind, name).key(), None, "{kind} {name}");
        }
    }
}
