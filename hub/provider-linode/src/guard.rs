//! What has to stand before an instance is ordered: a firewall that lets nothing in.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::flat_tags;
use blueprint_hub_provider_kit::rest::{Call, Rest, call};
use blueprint_hub_provision_core::{ProviderError, Tidied};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::cloud::all;
use crate::errors::is_label_taken;

pub(crate) const LIST: Call = call("get-firewalls", "firewall:read_only");
pub(crate) const GET: Call = call("get-firewall", "firewall:read_only");
pub(crate) const CREATE: Call = call("post-firewalls", "firewall:read_write");
pub(crate) const SET_RULES: Call = call("put-firewall-rules", "firewall:read_write");
pub(crate) const ENABLE: Call = call("put-firewall", "firewall:read_write");
pub(crate) const DELETE: Call = call("delete-firewall", "firewall:read_write");

/// Most characters of a firewall's label (the API's reference).
const LABEL: usize = 32;

/// Digits of the hub's id that its label has room for.
const DIGITS: usize = 24;

/// The hub's firewall.
#[derive(Debug)]
pub(crate) struct Guard {
    label: String,
    tag: String,
    /// Its number, so that it is not looked for each time. Held while it is looked for, so that of two orders at once one makes
    /// it.
    kept: Mutex<Option<u64>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Firewall {
    id: u64,
    label: String,
    status: String,
    rules: Rules,
}

#[derive(Debug, Clone, Deserialize)]
struct Rules {
    #[serde(default)]
    inbound: Option<Vec<Value>>,
    #[serde(default)]
    outbound: Option<Vec<Value>>,
    inbound_policy: String,
    outbound_policy: String,
}

#[derive(Serialize)]
struct WantedRules {
    inbound: [(); 0],
    inbound_policy: &'static str,
    outbound: [(); 0],
    outbound_policy: &'static str,
}

#[derive(Serialize)]
struct Wanted<'a> {
    label: &'a str,
    tags: [&'a str; 1],
    rules: WantedRules,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// Nothing in, everything out.
const RULES: WantedRules =
    WantedRules { inbound: [], inbound_policy: "DROP", outbound: [], outbound_policy: "ACCEPT" };

impl Firewall {
    fn is_enabled(&self) -> bool {
        self.status == "enabled"
    }
}

impl Rules {
    fn are_right(&self) -> bool {
        let is_empty = |rules: &Option<Vec<Value>>| rules.as_deref().unwrap_or_default().is_empty();
        is_empty(&self.inbound)
            && is_empty(&self.outbound)
            && self.inbound_policy == "DROP"
            && self.outbound_policy == "ACCEPT"
    }
}

impl Guard {
    /// That of one hub.
    pub(crate) fn new(hub: HubId) -> Self {
        let digits: String = hub.to_string().chars().filter(char::is_ascii_hexdigit).take(DIGITS).collect();
        let mut label = format!("bp-hub-{digits}");
        label.truncate(LABEL);
        Self { label, tag: flat_tags::of_hub(hub), kept: Mutex::default() }
    }

    /// Sees to it that it stands, and gives its number.
    ///
    /// It is looked at each time: a person may have opened it, and a machine must not be born behind that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a firewall, which the next call finds by its label.
    pub(crate) async fn stand(&self, rest: &Rest) -> Result<u64, ProviderError> {
        let mut kept = self.kept.lock().await;
        let found = match kept.take() {
            Some(id) => rest.find::<Firewall>(GET, &path(id)).await?,
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => self.by_label(rest).await?,
        };
        let id = match found {
            Some(found) => self.set_right(rest, found).await?,
            None => self.make(rest).await?,
        };
        *kept = Some(id);
        Ok(id)
    }

    /// Deletes it.
    pub(crate) async fn remove(&self, rest: &Rest, tidied: &mut Tidied) -> Result<(), ProviderError> {
        let mut kept = self.kept.lock().await;
        *kept = None;
        if let Some(found) = self.by_label(rest).await? {
            rest.delete(DELETE, &path(found.id)).await?;
            info!(target: "audit", provider = "linode", firewall = self.label, "firewall deleted");
            tidied.removed.push(format!("firewall {}", self.label));
        }
        Ok(())
    }

    async fn by_label(&self, rest: &Rest) -> Result<Option<Firewall>, ProviderError> {
        let (firewalls, _) =
            all::<Firewall>(rest, LIST, "/v4/networking/firewalls", None, |one| one.id.to_string()).await?;
        Ok(firewalls.into_iter().find(|one| one.label == self.label))
    }

    async fn make(&self, rest: &Rest) -> Result<u64, ProviderError> {
        let body = Wanted { label: &self.label, tags: [&self.tag], rules: RULES };
        let made = rest.write::<Firewall>(CREATE, Method::POST, "/v4/networking/firewalls", &body).await;
        match made {
            Ok(made) => {
                info!(target: "audit", provider = "linode", firewall = self.label, "firewall created");
                self.set_right(rest, made).await
            }
            // An answer that was lost before made it, and lists do not show it yet.
            Err(error) if is_label_taken(&error) => Err(ProviderError::Busy {
                reason: format!("firewall {} is there, and is not listed yet", self.label),
            }),
            Err(error) => Err(error),
        }
    }

    async fn set_right(&self, rest: &Rest, found: Firewall) -> Result<u64, ProviderError> {
        let is_right = found.rules.are_right() && found.is_enabled();
        if is_right {
            return Ok(found.id);
        }
        warn!(
            provider = "linode",
            firewall = self.label,
            "the firewall of the machines was changed by hand; it is set back to let nothing in and everything out"
        );
        if !found.rules.are_right() {
            let rules = format!("{}/rules", path(found.id));
            let set: Rules = rest.write(SET_RULES, Method::PUT, &rules, &RULES).await?;
            if !set.are_right() {
                return Err(still_open(&self.label));
            }
        }
        if !found.is_enabled() {
            let body = Status { status: "enabled" };
            let set: Firewall = rest.write(ENABLE, Method::PUT, &path(found.id), &body).await?;
            if !set.is_enabled() {
                return Err(still_open(&self.label));
            }
        }
        Ok(found.id)
    }
}

fn path(id: u64) -> String {
    format!("/v4/networking/firewalls/{id}")
}

fn still_open(label: &str) -> ProviderError {
    ProviderError::Reject {
        reason: format!(
            "firewall {label} stays open although it was set to let nothing in; look at it, or delete it, and the hub makes \
             another"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firewall_that_was_opened_by_hand_is_seen() {
        let is_right = |change: &dyn Fn(&mut Value)| {
            let mut rules = serde_json::to_value(&RULES).unwrap();
            change(&mut rules);
            serde_json::from_value::<Rules>(rules).unwrap().are_right()
        };
        assert!(is_right(&|_| {}));
        assert!(is_right(&|rules| rules["inbound"] = Value::Null));
        assert!(!is_right(&|rules| rules["inbound"] = serde_json::json!([{"protocol": "TCP"}])));
        assert!(!is_right(&|rules| rules["inbound_policy"] = "ACCEPT".into()));
        assert!(!is_right(
            &|rules| rules["outbound"] = serde_json::json!([{"protocol": "TCP", "action": "DROP"}])
        ));
        assert!(!is_right(&|rules| rules["outbound_policy"] = "DROP".into()));
    }

    #[test]
    fn the_label_fits_and_tells_hubs_apart() {
        let label = |first: u8| Guard::new(HubId::from_bytes([first; 16])).label;
        assert!(label(1).len() <= LABEL && crate::machine::is_label(&label(1)), "{}", label(1));
        assert_ne!(label(1), label(2));
    }
}
