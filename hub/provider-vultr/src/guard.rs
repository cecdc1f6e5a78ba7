//! What has to stand before an instance is ordered: a firewall group without rules, which lets nothing in.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::flat_tags;
use blueprint_hub_provider_kit::rest::{Call, Rest, call};
use blueprint_hub_provision_core::{ProviderError, Tidied};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::cloud::all;
use crate::line::is_id;

pub(crate) const LIST: Call = call("list-firewall-groups", "firewall");
pub(crate) const CREATE: Call = call("create-firewall-group", "firewall");
pub(crate) const DELETE: Call = call("delete-firewall-group", "firewall");
pub(crate) const RULES: Call = call("list-firewall-group-rules", "firewall");
pub(crate) const DELETE_RULE: Call = call("delete-firewall-group-rule", "firewall");

/// The hub's firewall group.
#[derive(Debug)]
pub(crate) struct Guard {
    name: String,
    /// Held while it is looked for, so that of two orders at once one makes it.
    looking: Mutex<()>,
}

#[derive(Debug, Clone, Deserialize)]
struct Group {
    id: String,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct One {
    firewall_group: Group,
}

#[derive(Debug, Clone, Deserialize)]
struct Rule {
    id: u64,
}

#[derive(Serialize)]
struct Wanted<'a> {
    description: &'a str,
}

impl Guard {
    /// That of one hub.
    pub(crate) fn new(hub: HubId) -> Self {
        Self { name: flat_tags::of_hub(hub), looking: Mutex::default() }
    }

    /// Sees to it that it stands, and gives its id.
    ///
    /// Its rules are looked at each time: a person may have added one, and a machine must not be born behind that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a group, which the next call finds by its description.
    pub(crate) async fn stand(&self, rest: &Rest) -> Result<String, ProviderError> {
        let _looking = self.looking.lock().await;
        let found = self.own(rest).await?.into_iter();
        // The first of two that a lost answer made, by their ids.
        match found.min_by(|a, b| a.id.cmp(&b.id)) {
            Some(group) => self.empty(rest, group.id).await,
            None => {
                let body = Wanted { description: &self.name };
                let made: One = rest.write(CREATE, Method::POST, "/v2/firewalls", &body).await?;
                info!(target: "audit", provider = "vultr", firewall = self.name, "firewall created");
                self.empty(rest, made.firewall_group.id).await
            }
        }
    }

    /// Deletes it, and a second one that a lost answer made.
    pub(crate) async fn remove(&self, rest: &Rest, tidied: &mut Tidied) -> Result<(), ProviderError> {
        let _looking = self.looking.lock().await;
        for group in self.own(rest).await? {
            is_id(&group.id).then_some(()).ok_or_else(no_id)?;
            rest.delete(DELETE, &format!("/v2/firewalls/{}", group.id)).await?;
            info!(target: "audit", provider = "vultr", firewall = self.name, "firewall deleted");
            tidied.removed.push(format!("firewall group {}", self.name));
        }
        Ok(())
    }

    /// Every group with its description.
    async fn own(&self, rest: &Rest) -> Result<Vec<Group>, ProviderError> {
        let (groups, _) = all::<Group>(rest, LIST, "/v2/firewalls?", |group| group.id.clone()).await?;
        Ok(groups.into_iter().filter(|group| group.description == self.name).collect())
    }

    async fn empty(&self, rest: &Rest, id: String) -> Result<String, ProviderError> {
        if !is_id(&id) {
            return Err(no_id());
        }
        let path = format!("/v2/firewalls/{id}/rules");
        let (rules, _) = all::<Rule>(rest, RULES, &format!("{path}?"), |rule| rule.id.to_string()).await?;
        if rules.is_empty() {
            return Ok(id);
        }
        warn!(
            provider = "vultr",
            firewall = self.name,
            rules = rules.len(),
            "the firewall of the machines was opened by hand; its rules are deleted, so that nothing comes in"
        );
        for rule in rules {
            rest.delete(DELETE_RULE, &format!("{path}/{}", rule.id)).await?;
        }
        Ok(id)
    }
}

fn no_id() -> ProviderError {
    let source = "the id of a firewall group is no UUID".into();
    ProviderError::Other { call: LIST.name, source }
}
