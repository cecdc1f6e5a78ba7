//! Whether the key can be used as the hub is configured, before anything is ordered.

use std::collections::BTreeSet;

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{nothing_stands, redacted};
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState, Tidied};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::api::{Call, call, now, read, rights};
use crate::cloud::{self, Scaleway};
use crate::{create, delete, errors, guard, image, offers, volumes};

/// Longest text of an account that is shown, in bytes.
const MAX_SHOWN: usize = 256;

const PROJECT: Call = call("GetProject", rights::PROJECT);

/// Every call of this crate.
pub(crate) const ALL: [Call; 24] = [
    create::CREATE,
    create::USER_DATA,
    create::UPDATE,
    cloud::LIST,
    cloud::GET,
    cloud::ACTION,
    delete::DELETE,
    guard::GROUP_LIST,
    guard::GROUP_GET,
    guard::GROUP_CREATE,
    guard::GROUP_UPDATE,
    guard::GROUP_DELETE,
    guard::RULE_LIST,
    guard::RULE_DELETE,
    volumes::LOCAL_LIST,
    volumes::LOCAL_UPDATE,
    volumes::LOCAL_DELETE,
    volumes::BLOCK_LIST,
    volumes::BLOCK_UPDATE,
    volumes::BLOCK_DELETE,
    image::IMAGES,
    offers::TYPES,
    offers::STOCK,
    PROJECT,
];

/// The permission sets that a key's policy needs, in the project of the machines; `ProjectReadOnly` for the check alone.
#[must_use]
pub fn permission_sets() -> Vec<&'static str> {
    let sets: BTreeSet<_> = ALL.iter().map(|call| call.right).filter(|right| !right.is_empty()).collect();
    sets.into_iter().collect()
}

#[derive(Deserialize)]
struct Project {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    organization_id: String,
}

impl Account for Scaleway {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.account().boxed()
    }

    fn tidy<'a>(&'a self, hub: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            nothing_stands(self, Some(hub)).await?;
            self.guard.remove(&self.api, &self.looked_in(), tidied).await
        }
        .boxed()
    }
}

impl Scaleway {
    /// What is found with the key.
    ///
    /// # Errors
    ///
    /// Where nothing of it can be said: the key is wrong, or the cloud cannot be reached.
    async fn account(&self) -> Result<AccountReport, ProviderError> {
        let mut report = AccountReport::default();
        let project = self.api.project().await?;
        self.owner(&project, &mut report).await?;
        for zone in self.ordered_in() {
            self.zone(zone, &project, &mut report).await?;
        }
        for right in permission_sets() {
            if report.rights.iter().all(|own| own.name != right) {
                report.note_right(right, RightState::Untried);
            }
        }
        report.notes.push(
            "Scaleway puts the SSH keys of the project on every machine; nothing reaches them while the security group \
             is closed"
                .to_owned(),
        );
        Ok(report)
    }

    async fn owner(&self, project: &str, report: &mut AccountReport) -> Result<(), ProviderError> {
        let path = format!("/account/v3/projects/{project}");
        let answer = self.api.send(PROJECT, Method::GET, &path, None).await?;
        if answer.status() == StatusCode::FORBIDDEN {
            report.account = project.to_owned();
            report.notes.push(format!(
                "whose project it is cannot be said: the key lacks the permission set {}, which orders do without",
                rights::PROJECT
            ));
            return Ok(());
        }
        if errors::is_absent(&answer) {
            report.account = project.to_owned();
            report.problems.push(format!(
                "there is no project {project}; take the id from https://console.scaleway.com/project/settings and run \
                 `blueprint-hub provider configure scaleway`"
            ));
            return Ok(());
        }
        let Project { id, name, organization_id } = read(PROJECT, &answer)?;
        report.note_right(rights::PROJECT, RightState::Held);
        report.account = shown(&id);
        report.identity = format!("project {} of {}", shown(&name), shown(&organization_id));
        Ok(())
    }

    /// Tries what only reads, in one zone.
    async fn zone(&self, zone: &str, project: &str, report: &mut AccountReport) -> Result<(), ProviderError> {
        let servers = format!("/instance/v1/zones/{zone}/servers?project={project}&per_page=1");
        let volumes = format!("/block/v1/zones/{zone}/volumes?project_id={project}&page_size=1");
        for (call, path) in [(cloud::LIST, servers), (volumes::BLOCK_LIST, volumes)] {
            let answer = self.api.send(call, Method::GET, &path, None).await?;
            if answer.status().is_success() {
                report.note_right(call.right, RightState::Held);
                continue;
            }
            if errors::is_absent(&answer) {
                report.regions.push((zone.to_owned(), Some(false)));
                report.problems.push(format!(
                    "{zone}: Scaleway has no such zone, or not all of its products there; correct it in \
                     providers.scaleway.zones and start the hub again"
                ));
                return Ok(());
            }
            let error = errors::refused(call, &answer, now());
            if answer.status() != StatusCode::FORBIDDEN {
                return Err(error);
            }
            if report.rights.iter().all(|own| own.name != call.right) {
                report.note_right(call.right, RightState::Missing);
                report.problems.push(error.line());
            }
        }
        report.regions.push((zone.to_owned(), Some(true)));
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
            let path = file.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            named
                .extend(code.split("call(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
        let listed: BTreeSet<_> = ALL.iter().map(|call| call.name.to_owned()).collect();
        assert_eq!(named, listed);
        assert_eq!(listed.len(), ALL.len(), "one stands there twice");
        assert_eq!(permission_sets(), ["BlockStorageFullAccess", "InstancesFullAccess", "ProjectReadOnly"]);
    }

    #[test]
    fn the_page_of_the_manual_names_every_permission_set() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/scaleway.md");
        let page = std::fs::read_to_string(path).unwrap();
        for set in permission_sets() {
            assert!(page.contains(set), "docs/scaleway.md does not name {set}");
        }
    }
}
