//! What has to stand before a machine is made: the resource group, and in each region a security group that lets nothing in and a
//! network that goes by it.

use std::time::Duration;

use blueprint_hub_provision_core::ProviderError;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::api::{Call, call, version};
use crate::cloud::Azure;
use crate::operation::Followed;
use crate::order::Place;
use crate::tags;

pub(crate) const GROUP_PUT: Call = call(
    "ResourceGroups_CreateOrUpdate",
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    version::RESOURCES,
);
pub(crate) const SECURITY_GET: Call =
    call("NetworkSecurityGroups_Get", "Microsoft.Network/networkSecurityGroups/read", version::NETWORK);
pub(crate) const SECURITY_PUT: Call = call(
    "NetworkSecurityGroups_CreateOrUpdate",
    "Microsoft.Network/networkSecurityGroups/write",
    version::NETWORK,
);
pub(crate) const NETWORK_GET: Call =
    call("VirtualNetworks_Get", "Microsoft.Network/virtualNetworks/read", version::NETWORK);
pub(crate) const NETWORK_PUT: Call =
    call("VirtualNetworks_CreateOrUpdate", "Microsoft.Network/virtualNetworks/write", version::NETWORK);

/// The rule that refuses what comes in. Azure's own rules let in what comes from the same network and from load balancers.
const RULE: &str = "refuse-all";

/// Before every rule of Azure's own, and of those of people the first.
const PRIORITY: u32 = 100;

/// How long the making of each is followed; what takes longer is looked at again by the next call.
const FOLLOW: Duration = Duration::from_secs(4);

const SUBNET: &str = "machines";

/// Addresses of machines inside the network: some 65,000. They speak with each other through the hub alone.
const ADDRESSES: &str = "10.42.0.0/16";

/// A network or a security group, as far as the hub looks.
#[derive(Debug, Deserialize)]
struct Standing {
    id: String,
    properties: Properties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Properties {
    provisioning_state: String,
    security_rules: Option<Vec<Rule>>,
    subnets: Option<Vec<Subnet>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rule {
    properties: RuleProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuleProperties {
    direction: String,
    access: String,
    protocol: String,
    priority: u32,
    source_address_prefix: Option<String>,
    destination_address_prefix: Option<String>,
    destination_port_range: Option<String>,
    source_port_range: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subnet {
    id: String,
    name: String,
    properties: SubnetProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SubnetProperties {
    network_security_group: Option<Named>,
    provisioning_state: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    id: String,
}

impl Azure {
    /// Has all of it stand, and says where a machine goes.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] while Azure is at it, else as Azure answers.
    pub(crate) async fn place(&self, region: &str) -> Result<Place, ProviderError> {
        let name = format!("blueprint-hub-{region}");
        let security = format!("{}/providers/Microsoft.Network/networkSecurityGroups/{name}", self.within());
        let found = self.api.find::<Standing>(SECURITY_GET, &security).await?;
        let is_there = match &found {
            None => {
                self.make_group(region).await?;
                false
            }
            Some(found) if found.is_closed() => stands(&name, &found.properties.provisioning_state)?,
            Some(_) => {
                warn!(
                    provider = "azure",
                    security_group = name,
                    "the security group of the machines was changed; it is set back to let nothing in"
                );
                false
            }
        };
        if !is_there {
            self.make(SECURITY_PUT, &security, &closed(region, &tags::of_hub(self.config.hub))).await?;
        }
        let security_group = format!("{}{security}", self.api.scope().await?);
        let network = format!("{}/providers/Microsoft.Network/virtualNetworks/{name}", self.within());
        if let Some(found) = self.api.find::<Standing>(NETWORK_GET, &network).await?
            && let Some(subnet) = found.subnet(&security_group)
            && stands(&found.id, &subnet.properties.provisioning_state)?
        {
            return Ok(Place { security_group, subnet: subnet.id.clone() });
        }
        let tags = tags::of_hub(self.config.hub);
        self.make(NETWORK_PUT, &network, &behind(region, &security_group, &tags)).await?;
        let subnet = format!("{}{network}/subnets/{SUBNET}", self.api.scope().await?);
        Ok(Place { security_group, subnet })
    }

    /// The resource group, which stands in the region of the first machine and holds those of all.
    async fn make_group(&self, region: &str) -> Result<(), ProviderError> {
        let group = self.within();
        let found: Option<Value> = self.api.find(crate::check::GROUP_GET, &group).await?;
        if let Some(found) = found {
            let hub = self.config.hub.to_string();
            let whose = found.pointer(&format!("/tags/{}", tags::HUB)).and_then(Value::as_str);
            if whose.is_some_and(|whose| whose != hub) {
                return Err(ProviderError::Reject {
                    reason: format!(
                        "the resource group {} is another hub's; set providers.azure.resource_group to another name",
                        self.group
                    ),
                });
            }
            return Ok(());
        }
        let body = json!({ "location": region, "tags": tags::of_hub(self.config.hub) });
        self.api.put(GROUP_PUT, &group, &body).await?;
        info!(target: "audit", provider = "azure", resource_group = self.group, "resource group created");
        Ok(())
    }

    async fn make(&self, call: Call, path: &str, body: &Value) -> Result<(), ProviderError> {
        let answer = self.api.put(call, path, body).await?;
        info!(target: "audit", provider = "azure", what = path, "network resource created");
        match self.api.follow(call, &answer, self.config.follow_within.min(FOLLOW)).await? {
            Followed::Done => Ok(()),
            Followed::Going => Err(ProviderError::Busy { reason: format!("{path} is being made") }),
            Followed::Failed(refusal) => Err(refusal.into_error(call, &crate::errors::About::default())),
        }
    }
}

impl Standing {
    /// Whether the first rule for what comes in refuses all of it.
    fn is_closed(&self) -> bool {
        let inbound = self.properties.security_rules.iter().flatten().map(|rule| &rule.properties);
        let first = inbound
            .filter(|rule| rule.direction.eq_ignore_ascii_case("inbound"))
            .min_by_key(|rule| rule.priority);
        first.is_some_and(|rule| {
            let all = [
                &rule.source_address_prefix,
                &rule.source_port_range,
                &rule.destination_address_prefix,
                &rule.destination_port_range,
            ];
            rule.access.eq_ignore_ascii_case("deny")
                && rule.protocol == "*"
                && all.into_iter().all(|part| part.as_deref() == Some("*"))
        })
    }

    /// The subnet of machines, where it goes by this security group.
    fn subnet(&self, security_group: &str) -> Option<&Subnet> {
        self.properties.subnets.iter().flatten().find(|subnet| {
            let group = subnet.properties.network_security_group.as_ref();
            subnet.name.eq_ignore_ascii_case(SUBNET)
                && group.is_some_and(|group| group.id.eq_ignore_ascii_case(security_group))
        })
    }
}

/// Whether it can be used. False for what Azure failed to make or to change: it stays so until it is put again.
fn stands(what: &str, state: &str) -> Result<bool, ProviderError> {
    match state.to_ascii_lowercase().as_str() {
        "" | "succeeded" => Ok(true),
        "failed" | "canceled" => Ok(false),
        _ => Err(ProviderError::Busy { reason: format!("{what} is {state}") }),
    }
}

/// A security group that lets nothing in. What goes out is let out by Azure's own rules.
fn closed(region: &str, tags: &tags::Written) -> Value {
    json!({ "location": region, "tags": tags, "properties": { "securityRules": [{
        "name": RULE,
        "properties": {
            "priority": PRIORITY,
            "direction": "Inbound",
            "access": "Deny",
            "protocol": "*",
            "sourceAddressPrefix": "*",
            "sourcePortRange": "*",
            "destinationAddressPrefix": "*",
            "destinationPortRange": "*",
        },
    }] } })
}

/// A network whose subnet goes by the security group, and has no way out of its own.
fn behind(region: &str, security_group: &str, tags: &tags::Written) -> Value {
    json!({ "location": region, "tags": tags, "properties": {
        "addressSpace": { "addressPrefixes": [ADDRESSES] },
        "subnets": [{
            "name": SUBNET,
            "properties": {
                "addressPrefix": ADDRESSES,
                "defaultOutboundAccess": false,
                "networkSecurityGroup": { "id": security_group },
            },
        }],
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(change: &dyn Fn(&mut Value)) -> bool {
        let mut group = closed("eastus", &tags::Written::new());
        group["id"] = "x".into();
        change(&mut group["properties"]["securityRules"]);
        serde_json::from_value::<Standing>(group).unwrap().is_closed()
    }

    #[test]
    fn a_security_group_that_somebody_opened_is_seen() {
        assert!(is_closed(&|_| {}));
        assert!(is_closed(&|rules| {
            let mut later = rules[0].clone();
            later["properties"]["access"] = "Allow".into();
            later["properties"]["priority"] = 200.into();
            rules.as_array_mut().unwrap().push(later);
        }));
        assert!(!is_closed(&|rules| *rules = json!([])));
        assert!(!is_closed(&|rules| rules[0]["properties"]["direction"] = "Outbound".into()));
        for (field, value) in [("access", "Allow"), ("protocol", "Udp"), ("destinationPortRange", "22")] {
            assert!(!is_closed(&|rules| rules[0]["properties"][field] = value.into()), "{field}");
        }
        assert!(!is_closed(&|rules| {
            let mut first = rules[0].clone();
            first["properties"]["access"] = "Allow".into();
            first["properties"]["priority"] = 99.into();
            rules.as_array_mut().unwrap().push(first);
        }));
    }

    #[test]
    fn what_azure_failed_at_is_put_again_and_what_it_works_at_is_waited_for() {
        assert!(stands("x", "Succeeded").unwrap() && stands("x", "").unwrap());
        assert!(!stands("x", "Failed").unwrap() && !stands("x", "Canceled").unwrap());
        assert!(matches!(stands("x", "Updating"), Err(ProviderError::Busy { .. })));
    }

    #[test]
    fn a_subnet_that_goes_by_another_group_does_not_count() {
        let mut network = behind("eastus", "/subscriptions/s/x/NSG", &tags::Written::new());
        network["id"] = "y".into();
        let standing: Standing = serde_json::from_value(network).unwrap();
        assert!(standing.subnet("/subscriptions/S/x/nsg").is_some() && standing.subnet("/other").is_none());
    }
}
