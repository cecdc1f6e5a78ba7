//! The firewall rule that lets nothing in.

use std::time::Duration;

use blueprint_hub_provision_core::{ProviderError, Tidied};
use ring::digest;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::action::Action;
use crate::api::{Answer, Failure};
use crate::cloud::GcpCloud;
use crate::launch::hex;
use crate::operation::Operation;

/// The network tag of machines, for which the rule is. A tag, not an account: machines have none.
pub(crate) const CLOSED: &str = "blueprint-hub-no-ingress";

/// How long is waited for a new rule.
const WITHIN: Duration = Duration::from_secs(12);

/// A rule as Google shows it, as far as the hub looks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: String,
    network: String,
    direction: String,
    priority: u32,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    denied: Vec<Protocol>,
    #[serde(default)]
    allowed: Vec<Value>,
    #[serde(default)]
    target_tags: Vec<String>,
    #[serde(default)]
    source_ranges: Vec<String>,
    #[serde(default)]
    destination_ranges: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Protocol {
    #[serde(rename = "IPProtocol")]
    name: String,
    #[serde(default)]
    ports: Vec<String>,
}

impl Rule {
    /// Whether it denies everything that comes in, to every machine with the tag, before any other rule.
    fn is_closed(&self, network: &str) -> bool {
        self.direction == "INGRESS"
            && self.priority == 0
            && !self.disabled
            && self.allowed.is_empty()
            && self.denied.iter().any(|one| one.name.eq_ignore_ascii_case("all") && one.ports.is_empty())
            && self.target_tags.iter().any(|tag| tag == CLOSED)
            && self.source_ranges.iter().any(|range| range == "0.0.0.0/0")
            && self.destination_ranges.is_empty()
            && self.network.rsplit('/').next() == Some(network)
    }
}

/// The rule's name: one in each network, and names are the project's.
pub(crate) fn rule_name(network: &str) -> String {
    let name = format!("{CLOSED}-{network}");
    if name.len() <= 63 {
        return name;
    }
    let hash = hex(digest::digest(&digest::SHA256, network.as_bytes()).as_ref());
    format!("{CLOSED}-{}", hash.get(..16).unwrap_or_default())
}

/// The rule as it is made. Of two rules with one priority the one that denies counts, and none goes before 0 (Google's
/// reference of `priority`). Machines have no IPv6, so IPv4 is all.
fn wanted(network: &str) -> Value {
    json!({
        "name": rule_name(network),
        "description": "Machines of blueprint-hub: nothing may come in",
        "network": format!("global/networks/{network}"),
        "direction": "INGRESS",
        "priority": 0,
        "denied": [{ "IPProtocol": "all" }],
        "sourceRanges": ["0.0.0.0/0"],
        "targetTags": [CLOSED],
        "disabled": false,
    })
}

impl GcpCloud {
    /// Sees to it that the rule stands, and makes it where it is not there. One that somebody changed is not used, and not
    /// set back either: that was done on purpose.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a rule, which the next call finds by its name.
    pub(crate) async fn closed(&self) -> Result<(), ProviderError> {
        let network = self.config.network.as_str();
        if self.rule_is_there().await? {
            return Ok(());
        }
        let action = Action::InsertFirewall;
        let failed = |failure: Failure| failure.into_error(action, network);
        // No request id: its name is its own, and one that was deleted by hand has to be made again at once.
        let rule = wanted(network);
        let made = match self.api.call::<Operation>(action, "global/firewalls", &[], Some(&rule)).await {
            Ok(Answer { body, .. }) => self.api.finish(None, body, WITHIN).await,
            Err(failure) => Err(failure),
        };
        match made {
            Ok(operation) if operation.is_done() => {
                info!(target: "audit", provider = "gcp", firewall = rule_name(network), "firewall rule created");
            }
            Ok(_) => return Err(unfinished(network)),
            // Another call was first.
            Err(Failure::Refused(refusal)) if refusal.is_taken() => {}
            Err(failure) => return Err(failed(failure)),
        }
        if self.rule_is_there().await? { Ok(()) } else { Err(unfinished(network)) }
    }

    /// Deletes the rule, also where somebody changed it: its name is the hub's.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] where Google is still at it; else as Google answers.
    pub(crate) async fn remove_rule(&self, tidied: &mut Tidied) -> Result<(), ProviderError> {
        let network = self.config.network.as_str();
        let action = Action::DeleteFirewall;
        let name = rule_name(network);
        let path = format!("global/firewalls/{name}");
        let done = match self.api.call::<Operation>(action, &path, &[], None).await {
            Ok(Answer { body, .. }) => self.api.finish(None, body, WITHIN).await,
            Err(failure) => Err(failure),
        };
        match done {
            Ok(operation) if operation.is_done() => {
                info!(target: "audit", provider = "gcp", firewall = name, "firewall rule deleted");
                tidied.removed.push(format!("firewall rule {name}"));
                Ok(())
            }
            Ok(_) => Err(ProviderError::Busy {
                reason: format!("Google is still deleting the firewall rule {name}"),
            }),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(()),
            Err(failure) => Err(failure.into_error(action, network)),
        }
    }

    /// Whether the rule is there, as it was made.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where it was changed; else as Google answers.
    pub(crate) async fn rule_is_there(&self) -> Result<bool, ProviderError> {
        let network = self.config.network.as_str();
        let action = Action::GetFirewall;
        let path = format!("global/firewalls/{}", rule_name(network));
        match self.api.call::<Rule>(action, &path, &[], None).await {
            Ok(Answer { body, .. }) if body.is_closed(network) => Ok(true),
            Ok(Answer { body, .. }) => Err(ProviderError::Reject {
                reason: format!(
                    "the firewall rule {} was changed and may let something in: delete it, the hub makes it again",
                    body.name
                ),
            }),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(false),
            Err(failure) => Err(failure.into_error(action, network)),
        }
    }
}

fn unfinished(network: &str) -> ProviderError {
    ProviderError::Busy { reason: format!("Google is still making the firewall rule {}", rule_name(network)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_was_changed_is_seen() {
        let is_closed = |change: &dyn Fn(&mut Value)| {
            let mut rule = wanted("default");
            rule["network"] =
                json!("https://www.googleapis.com/compute/v1/projects/p/global/networks/default");
            change(&mut rule);
            serde_json::from_value::<Rule>(rule).unwrap().is_closed("default")
        };
        assert!(is_closed(&|_| {}));
        for (field, value) in [
            ("disabled", json!(true)),
            ("priority", json!(900)),
            ("direction", json!("EGRESS")),
            ("denied", json!([])),
            ("denied", json!([{ "IPProtocol": "tcp" }])),
            ("denied", json!([{ "IPProtocol": "all", "ports": ["22"] }])),
            ("allowed", json!([{ "IPProtocol": "tcp" }])),
            ("sourceRanges", json!(["10.0.0.0/8"])),
            ("destinationRanges", json!(["10.0.0.0/8"])),
            ("targetTags", json!(["web"])),
            ("network", json!("global/networks/other")),
        ] {
            assert!(!is_closed(&|rule| rule[field] = value.clone()), "{field}");
        }
        assert_eq!(rule_name("default"), "blueprint-hub-no-ingress-default");
        let long = rule_name(&"n".repeat(63));
        assert!(long.len() <= 63 && long != rule_name(&"n".repeat(62)), "{long}");
    }
}
