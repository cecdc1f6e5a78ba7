//! Whether the key can be used as the hub is configured, before anything is ordered.

use std::collections::BTreeSet;

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::rest::{Call, call};
use blueprint_hub_provider_kit::{nothing_stands, redacted};
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState, Tidied};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::cloud::{Vultr, all};
use crate::{cloud, guard, line, offers};

/// Longest text of an account that is shown, in bytes.
const MAX_SHOWN: usize = 256;

const ACCOUNT: Call = call("get-account", "");
const REGIONS: Call = call("list-regions", "");

/// Calls that only read, and so can be tried.
const TRIED: [(Call, &str); 3] = [
    (line::CLOUD.list, "/v2/instances?per_page=1"),
    (line::METAL.list, "/v2/bare-metals?per_page=1"),
    (guard::LIST, "/v2/firewalls?per_page=1"),
];

/// Every call of this crate, in the order of their permissions.
pub(crate) const ALL: [Call; 23] = [
    line::CLOUD.list,
    line::CLOUD.get,
    line::METAL.list,
    line::METAL.get,
    line::CLOUD.create,
    line::METAL.create,
    line::CLOUD.delete,
    line::CLOUD.start,
    line::CLOUD.halt,
    line::METAL.delete,
    line::METAL.start,
    line::METAL.halt,
    line::UPDATE_METAL,
    guard::LIST,
    guard::CREATE,
    guard::DELETE,
    guard::RULES,
    guard::DELETE_RULE,
    cloud::SYSTEMS,
    offers::PLANS,
    offers::METAL_PLANS,
    ACCOUNT,
    REGIONS,
];

/// The permissions that the user of the key needs for what this crate calls, and no others.
#[must_use]
pub fn permissions() -> Vec<&'static str> {
    let mut scopes: Vec<_> = ALL.iter().map(|call| call.scope).filter(|scope| !scope.is_empty()).collect();
    scopes.dedup();
    scopes
}

#[derive(Deserialize)]
struct Whole {
    account: Owner,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    name: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    acls: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Region {
    id: String,
}

impl Account for Vultr {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.account().boxed()
    }

    fn tidy<'a>(&'a self, hub: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            nothing_stands(self, Some(hub)).await?;
            self.guard.remove(&self.rest, tidied).await
        }
        .boxed()
    }
}

impl Vultr {
    /// Asks whose key it is, what it may do, and whether regions and system are there. Nothing is made.
    ///
    /// # Errors
    ///
    /// Where Vultr does not know the key, or cannot be reached.
    async fn account(&self) -> Result<AccountReport, ProviderError> {
        let mut report = AccountReport::default();
        let answer = self.rest.send(ACCOUNT, Method::GET, "/v2/account", &[], None).await?;
        let Whole { account: Owner { name, email, acls } } = self.rest.read(ACCOUNT, &answer)?;
        report.identity = format!("{}, {}", shown(&name), shown(&email));
        for (call, path) in TRIED {
            let answer = self.rest.send(call, Method::GET, path, &[], None).await?;
            if answer.status().is_success() {
                report.note_right(call.scope, RightState::Held);
                continue;
            }
            let error = self.rest.refused(call, &answer);
            if answer.status() != StatusCode::FORBIDDEN {
                return Err(error);
            }
            report.note_right(call.scope, RightState::Missing);
            report.problems.push(error.line());
        }
        self.known_regions(&mut report).await?;
        if self.system().await?.is_none() {
            report.problems.push(format!(
                "Vultr has no system {:?}; correct it in providers.vultr.image and start the hub again",
                self.image
            ));
        }
        if self.bare_metal {
            report.notes.push(
                "bare metal is offered: no firewall of Vultr's stands before such machines, and each closes its own at its \
                 first boot"
                    .to_owned(),
            );
        }
        for permission in permissions() {
            let is_told = acls.contains(permission);
            report.note_right(permission, if is_told { RightState::Held } else { RightState::Untried });
        }
        Ok(report)
    }

    async fn known_regions(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let (known, _) =
            all::<Region>(&self.rest, REGIONS, "/v2/regions?", |region| region.id.clone()).await?;
        for region in &self.regions {
            let is_there = known.iter().any(|own| own.id == *region);
            report.regions.push((region.clone(), Some(is_there)));
            if !is_there {
                report.problems.push(format!(
                    "{region}: Vultr has no such region; correct it in providers.vultr.regions and start the hub again"
                ));
            }
        }
        Ok(())
    }
}

/// A text of the cloud, as it may be shown: one line of at most [`MAX_SHOWN`] bytes, without what looks like a secret.
fn shown(text: &str) -> String {
    let mut text = redacted(text.as_bytes());
    let end = text.floor_char_boundary(MAX_SHOWN);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all calls that stand in the sources, so that none is left out of the list.
    #[test]
    fn every_call_of_the_crate_is_in_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut named = BTreeSet::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            named
                .extend(code.split("call(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
        let listed: BTreeSet<_> = ALL.iter().map(|call| call.name.to_owned()).collect();
        assert_eq!(named, listed);
        assert_eq!(listed.len(), ALL.len(), "one stands there twice");
    }

    #[test]
    fn the_page_of_the_manual_names_every_permission() {
        assert_eq!(permissions(), ["subscriptions_view", "provisioning", "subscriptions", "firewall"]);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vultr.md");
        let page = std::fs::read_to_string(path).unwrap();
        for permission in permissions() {
            assert!(page.contains(&format!("`{permission}`")), "docs/vultr.md does not name {permission}");
        }
    }
}
