//! Whether the subscription can be used as it is configured, before anything is ordered.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{nothing_stands, redacted};
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState, Tidied};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::api::{self, Call, Sent, call, version};
use crate::cloud::Azure;
use crate::{cloud, leftovers, network, role, sizes};

/// Stands in a role where the id of the subscription goes.
pub(crate) const SOME_SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";

/// Longest text of an account that is shown, in bytes.
const MAX_SHOWN: usize = 128;

pub(crate) const GROUP_GET: Call =
    call("ResourceGroups_Get", "Microsoft.Resources/subscriptions/resourceGroups/read", version::RESOURCES);
const SUBSCRIPTION: Call =
    call("Subscriptions_Get", "Microsoft.Resources/subscriptions/read", version::SUBSCRIPTIONS);
const LOCATIONS: Call = call(
    "Subscriptions_ListLocations",
    "Microsoft.Resources/subscriptions/locations/read",
    version::SUBSCRIPTIONS,
);
const PERMISSIONS: Call =
    call("Permissions_ListForSubscription", "Microsoft.Authorization/permissions/read", version::PERMISSIONS);
const USAGES: Call = call("Usage_List", "Microsoft.Compute/locations/usages/read", version::COMPUTE);

/// Every call of this crate.
pub(crate) const ALL: [Call; 24] = [
    SUBSCRIPTION,
    LOCATIONS,
    PERMISSIONS,
    USAGES,
    GROUP_GET,
    network::GROUP_PUT,
    network::SECURITY_GET,
    network::SECURITY_PUT,
    network::NETWORK_GET,
    network::NETWORK_PUT,
    leftovers::SECURITY_DELETE,
    leftovers::NETWORK_DELETE,
    sizes::SKUS,
    cloud::LIST,
    cloud::LIST_ALL,
    cloud::GET,
    cloud::CREATE,
    cloud::DELETE,
    cloud::START,
    cloud::DEALLOCATE,
    leftovers::LIST,
    leftovers::NIC_DELETE,
    leftovers::ADDRESS_DELETE,
    leftovers::DISK_DELETE,
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    subscription_id: String,
    #[serde(default)]
    display_name: String,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct Location {
    name: String,
}

/// What some role of the caller allows: actions with `*`, less others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Permission {
    #[serde(default)]
    actions: Vec<String>,
    #[serde(default)]
    not_actions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    limit: i64,
    name: UsageName,
}

#[derive(Deserialize)]
struct UsageName {
    value: String,
}

impl Account for Azure {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.account().boxed()
    }

    fn tidy<'a>(&'a self, hub: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            nothing_stands(self, Some(hub)).await?;
            self.remove_network(hub, tidied).await
        }
        .boxed()
    }
}

impl Azure {
    /// Asks for the subscription, what of it is allowed, and which of the regions there are. Nothing is made.
    ///
    /// # Errors
    ///
    /// Where Azure does not know the credentials, or cannot be reached.
    async fn account(&self) -> Result<AccountReport, ProviderError> {
        let mut report = AccountReport::default();
        let answer = self.api.send(SUBSCRIPTION, Method::GET, "", Sent::default()).await?;
        let subscription: Subscription = api::read(SUBSCRIPTION, &answer)?;
        report.account = shown(&subscription.subscription_id);
        report.identity = shown(&subscription.display_name);
        if !subscription.state.is_empty() && subscription.state != "Enabled" {
            report.problems.push(format!(
                "the subscription is {}; its owner can switch it on",
                shown(&subscription.state)
            ));
        }
        self.rights(&mut report).await?;
        self.regions(&mut report).await?;
        // The group may not be there yet; that it can be listed is what counts.
        let (_, _) = self.machines().await?;
        Ok(report)
    }

    async fn rights(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let path = "/providers/Microsoft.Authorization/permissions";
        let permissions = match self.api.list::<Permission>(PERMISSIONS, path).await {
            Ok((permissions, _)) => permissions,
            Err(ProviderError::Deny { action }) => {
                report.notes.push(format!("what is allowed cannot be asked for: {action}"));
                role::actions().into_iter().for_each(|action| report.note_right(action, RightState::Untried));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for action in role::actions() {
            let is_held = permissions.iter().any(|permission| permission.allows(action));
            report.note_right(action, if is_held { RightState::Held } else { RightState::Missing });
            if !is_held {
                report.problems.push(format!(
                    "{action} is not allowed; add it to the role of the hub's application (`blueprint-hub provider policy azure`)"
                ));
            }
        }
        Ok(())
    }

    async fn regions(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let (known, _) = self.api.list::<Location>(LOCATIONS, "/locations").await?;
        for region in &self.config.regions {
            let is_there = known.iter().any(|location| location.name == *region);
            report.regions.push((region.clone(), Some(is_there)));
            if !is_there {
                report.problems.push(format!(
                    "{region}: the subscription has no such region; correct providers.azure.regions and start the hub again"
                ));
                continue;
            }
            let path = format!("/providers/Microsoft.Compute/locations/{region}/usages");
            let answer = self.api.send(USAGES, Method::GET, &path, Sent::default()).await?;
            if answer.status() == StatusCode::FORBIDDEN {
                report.notes.push(format!("{region}: the quota cannot be asked for"));
                continue;
            }
            let usages: Usages = api::read(USAGES, &answer)?;
            let cores = usages.value.iter().find(|usage| usage.name.value == "cores");
            if let Some(limit) = cores.and_then(|cores| u64::try_from(cores.limit).ok()) {
                report.quotas.push((format!("cores in {region}"), limit));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Usages {
    value: Vec<Usage>,
}

impl Permission {
    fn allows(&self, action: &str) -> bool {
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| is_like(pattern, action));
        fits(&self.actions) && !fits(&self.not_actions)
    }
}

/// Whether an action fits a pattern, in which `*` stands for any text.
fn is_like(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| action.strip_prefix(first)) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

fn shown(text: &str) -> String {
    let mut text = redacted(text.as_bytes());
    text.truncate(text.floor_char_boundary(MAX_SHOWN));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_roles_are_read_as_azure_does() {
        let action = "Microsoft.Compute/virtualMachines/start/action";
        for (pattern, is_it) in [
            ("*", true),
            ("Microsoft.Compute/*", true),
            ("microsoft.compute/VIRTUALMACHINES/*", true),
            ("Microsoft.Compute/virtualMachines/start/action", true),
            ("*/action", true),
            ("Microsoft.*/start/action", true),
            ("*/read", false),
            ("Microsoft.Compute/virtualMachines/start", false),
            ("Microsoft.Compute/virtualMachines/read", false),
            ("Microsoft.Compute/disks/*", false),
        ] {
            assert_eq!(is_like(pattern, action), is_it, "{pattern}");
        }
        let role =
            Permission { actions: vec!["*".to_owned()], not_actions: vec!["Microsoft.Compute/*".to_owned()] };
        assert!(!role.allows(action) && role.allows("Microsoft.Network/virtualNetworks/read"));
    }
}
