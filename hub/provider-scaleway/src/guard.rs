//! What has to stand before a server is ordered: in its zone, a security group that lets nothing in.

use std::collections::BTreeMap;

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{ProviderError, Tidied};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::api::{Api, Call, Rows, call, rights};
use crate::tags;

pub(crate) const GROUP_LIST: Call = call("ListSecurityGroups", rights::INSTANCES);
pub(crate) const GROUP_GET: Call = call("GetSecurityGroup", rights::INSTANCES);
pub(crate) const GROUP_CREATE: Call = call("CreateSecurityGroup", rights::INSTANCES);
pub(crate) const GROUP_UPDATE: Call = call("UpdateSecurityGroup", rights::INSTANCES);
pub(crate) const GROUP_DELETE: Call = call("DeleteSecurityGroup", rights::INSTANCES);
pub(crate) const RULE_LIST: Call = call("ListSecurityGroupRules", rights::INSTANCES);
pub(crate) const RULE_DELETE: Call = call("DeleteSecurityGroupRule", rights::INSTANCES);

/// The hub's security groups.
#[derive(Debug)]
pub(crate) struct Guard {
    name: String,
    /// Ids by zone, so that groups are not looked for each time. Held while one is looked for, so that of two orders at
    /// once one makes it.
    kept: Mutex<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Group {
    id: String,
    name: String,
    inbound_default_policy: String,
    outbound_default_policy: String,
    stateful: bool,
}

#[derive(Deserialize)]
struct OneGroup {
    security_group: Group,
}

#[derive(Deserialize)]
struct Groups {
    security_groups: Vec<Group>,
}

impl Rows for Groups {
    type Row = Group;

    fn rows(self) -> Vec<Group> {
        self.security_groups
    }

    fn id(row: &Group) -> String {
        row.id.clone()
    }
}

#[derive(Debug, Deserialize)]
struct Rule {
    id: String,
    /// False for the rules that Scaleway itself has in every group: no mail goes out.
    #[serde(default = "yes")]
    editable: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Rules {
    rules: Vec<Rule>,
}

impl Rows for Rules {
    type Row = Rule;

    fn rows(self) -> Vec<Rule> {
        self.rules
    }

    fn id(row: &Rule) -> String {
        row.id.clone()
    }
}

#[derive(Serialize)]
struct Policies {
    stateful: bool,
    inbound_default_policy: &'static str,
    outbound_default_policy: &'static str,
}

/// Nothing in but answers, everything out.
const CLOSED: Policies =
    Policies { stateful: true, inbound_default_policy: "drop", outbound_default_policy: "accept" };

#[derive(Serialize)]
struct Wanted<'a> {
    name: &'a str,
    project: &'a str,
    description: &'static str,
    project_default: bool,
    enable_default_security: bool,
    #[serde(flatten)]
    policies: Policies,
}

impl Group {
    fn is_closed(&self) -> bool {
        self.stateful
            && self.inbound_default_policy == CLOSED.inbound_default_policy
            && self.outbound_default_policy == CLOSED.outbound_default_policy
    }
}

impl Guard {
    /// That of one hub.
    pub(crate) fn new(hub: HubId) -> Self {
        Self { name: tags::of_hub(hub), kept: Mutex::default() }
    }

    /// Sees to it that the group of a zone stands and is closed, and gives its id.
    ///
    /// It is looked at each time: a person may have opened it, and a machine must not be born behind that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a group, which the next call finds by its name.
    pub(crate) async fn stand(&self, api: &Api, zone: &str) -> Result<String, ProviderError> {
        let mut kept = self.kept.lock().await;
        let base = format!("/instance/v1/zones/{zone}/security_groups");
        let found = match kept.remove(zone) {
            Some(id) => {
                let one: Option<OneGroup> = api.find(GROUP_GET, &format!("{base}/{id}")).await?;
                one.map(|one| one.security_group)
            }
            None => None,
        };
        let project = api.project().await?;
        let found = match found {
            Some(found) => Some(found),
            None => self.own(api, &base, &project).await?.into_iter().next(),
        };
        let id = match found {
            Some(found) => {
                self.mend(api, &base, &found).await?;
                found.id
            }
            None => self.make(api, &base, &project, zone).await?,
        };
        kept.insert(zone.to_owned(), id.clone());
        Ok(id)
    }

    /// Deletes those of these zones.
    pub(crate) async fn remove(
        &self,
        api: &Api,
        zones: &[&str],
        tidied: &mut Tidied,
    ) -> Result<(), ProviderError> {
        let mut kept = self.kept.lock().await;
        kept.clear();
        let project = api.project().await?;
        for zone in zones {
            let base = format!("/instance/v1/zones/{zone}/security_groups");
            for group in self.own(api, &base, &project).await? {
                api.delete(GROUP_DELETE, &format!("{base}/{}", group.id)).await?;
                info!(target: "audit", provider = "scaleway", zone, security_group = self.name, "security group deleted");
                tidied.removed.push(format!("security group {} in {zone}", self.name));
            }
        }
        Ok(())
    }

    /// Every group with its name; the API filters by parts of names.
    async fn own(&self, api: &Api, base: &str, project: &str) -> Result<Vec<Group>, ProviderError> {
        let path = format!("{base}?project={project}&name={}", self.name);
        let (groups, _) = api.list::<Groups>(GROUP_LIST, &path, false).await?;
        Ok(groups.into_iter().filter(|group| group.name == self.name).collect())
    }

    async fn make(&self, api: &Api, base: &str, project: &str, zone: &str) -> Result<String, ProviderError> {
        let wanted = Wanted {
            name: &self.name,
            project,
            description: "Nothing comes in. Made and looked after by a hub.",
            project_default: false,
            enable_default_security: true,
            policies: CLOSED,
        };
        let made: OneGroup = api.write(GROUP_CREATE, Method::POST, base, &wanted).await?;
        info!(target: "audit", provider = "scaleway", zone, security_group = self.name, "security group created");
        Ok(made.security_group.id)
    }

    /// Sets it back where a person changed it.
    async fn mend(&self, api: &Api, base: &str, found: &Group) -> Result<(), ProviderError> {
        let base = format!("{base}/{}", found.id);
        let (rules, _) = api.list::<Rules>(RULE_LIST, &format!("{base}/rules"), false).await?;
        let added: Vec<_> = rules.into_iter().filter(|rule| rule.editable).collect();
        if found.is_closed() && added.is_empty() {
            return Ok(());
        }
        warn!(
            provider = "scaleway",
            security_group = self.name,
            "the security group of the machines was changed by hand; it is set back to let nothing in and everything out"
        );
        for rule in added {
            api.delete(RULE_DELETE, &format!("{base}/rules/{}", rule.id)).await?;
        }
        if !found.is_closed() {
            let _: OneGroup = api.write(GROUP_UPDATE, Method::PATCH, &base, &CLOSED).await?;
        }
        Ok(())
    }
}
