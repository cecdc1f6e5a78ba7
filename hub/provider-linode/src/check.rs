//! Whether the token can be used as the hub is configured, before anything is ordered.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::rest::{Call, call};
use blueprint_hub_provider_kit::{nothing_stands, redacted};
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState, Tidied};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::cloud::Linode;
use crate::{cloud, guard, offers};

/// Longest text of an account that is shown, in bytes.
const MAX_SHOWN: usize = 256;

const PROFILE: Call = call("get-profile", "");
const IMAGE: Call = call("get-image", "images:read_only");

/// Calls that only read, and so can be tried.
const TRIED: [(Call, &str); 2] = [
    (cloud::LIST, "/v4/linode/instances?page=1&page_size=25"),
    (guard::LIST, "/v4/networking/firewalls?page=1&page_size=25"),
];

/// Every call of this crate, in the order of their scopes.
pub(crate) const ALL: [Call; 17] = [
    cloud::LIST,
    cloud::GET,
    cloud::CREATE,
    cloud::DELETE,
    cloud::BOOT,
    cloud::SHUTDOWN,
    guard::LIST,
    guard::GET,
    guard::CREATE,
    guard::SET_RULES,
    guard::ENABLE,
    guard::DELETE,
    PROFILE,
    IMAGE,
    offers::TYPES,
    offers::REGIONS,
    offers::STOCK,
];

/// The scopes that a token needs for what this crate calls, and no others: the right to write has that to read in it.
///
/// `images:read_only` is for the check alone: orders do without.
#[must_use]
pub fn scopes() -> Vec<&'static str> {
    let all: Vec<_> = ALL.iter().map(|call| call.scope).filter(|scope| !scope.is_empty()).collect();
    let is_contained = |scope: &str| {
        let wider = scope.strip_suffix(":read_only").map(|what| format!("{what}:read_write"));
        wider.is_some_and(|wider| all.contains(&wider.as_str()))
    };
    let mut scopes: Vec<_> = all.iter().copied().filter(|scope| !is_contained(scope)).collect();
    scopes.dedup();
    scopes
}

#[derive(Deserialize)]
struct Profile {
    username: String,
    #[serde(default)]
    email: String,
    restricted: bool,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    deprecated: bool,
}

impl Account for Linode {
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

impl Linode {
    /// Asks whose token it is, what it may read, and whether regions and image are there. Nothing is made: whether it may make
    /// and delete cannot be tried so.
    ///
    /// # Errors
    ///
    /// Where Linode does not know the token, or cannot be reached.
    async fn account(&self) -> Result<AccountReport, ProviderError> {
        let mut report = AccountReport::default();
        self.owner(&mut report).await?;
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
        self.known_image(&mut report).await?;
        for call in ALL.iter().filter(|call| !call.scope.is_empty()) {
            report.note_right(call.scope, RightState::Untried);
        }
        Ok(report)
    }

    async fn owner(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let answer = self.rest.send(PROFILE, Method::GET, "/v4/profile", &[], None).await?;
        let Profile { username, email, restricted } = self.rest.read(PROFILE, &answer)?;
        report.identity = match (shown(&username), shown(&email)) {
            (username, email) if email.is_empty() => username,
            (username, email) => format!("{username}, {email}"),
        };
        if restricted {
            report.problems.push(
                "the user of the token is restricted, and Linode lets such users set no tags, by which the hub knows its \
                 machines; make a token as a user with full access"
                    .to_owned(),
            );
        }
        Ok(())
    }

    async fn known_regions(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let known = offers::places(&self.rest).await?;
        for region in &self.regions {
            let found = known.iter().find(|own| own.id == *region);
            let is_right = found.is_some_and(|own| own.is_open() && own.can(&offers::NEEDED));
            report.regions.push((region.clone(), Some(is_right)));
            let why = match found {
                Some(_) if is_right => continue,
                Some(own) if own.is_open() => {
                    "it has no metadata service or no firewalls, which machines need; take it out"
                }
                Some(_) => "Linode has an outage there now; wait, or take it out",
                None => "Linode has no such region; correct it",
            };
            report
                .problems
                .push(format!("{region}: {why} in providers.linode.regions and start the hub again"));
        }
        Ok(())
    }

    /// User data reaches machines of images with cloud-init alone.
    async fn known_image(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        // Names of images have a slash, and are one segment of the path.
        let path = format!("/v4/images/{}", self.image.replace('/', "%2F"));
        let image = match self.rest.find::<Image>(IMAGE, &path).await {
            Err(ProviderError::Deny { action }) => {
                report.note_right(IMAGE.scope, RightState::Missing);
                report.notes.push(format!(
                    "whether the image {} can be used is not known: not allowed to {action}",
                    self.image
                ));
                return Ok(());
            }
            found => found?,
        };
        report.note_right(IMAGE.scope, RightState::Held);
        let why = match image {
            Some(image) if image.deprecated => "is not kept up any more; choose another",
            Some(image) if image.capabilities.iter().any(|own| own == "cloud-init") => return Ok(()),
            Some(_) => "does not run cloud-init, so that machines would never join; choose another",
            None => "is not there; correct it",
        };
        report.problems.push(format!(
            "the image {} {why} in providers.linode.image and start the hub again",
            self.image
        ));
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
    use std::collections::BTreeSet;

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
    fn the_page_of_the_manual_names_every_scope() {
        assert_eq!(scopes(), ["linodes:read_write", "firewall:read_write", "images:read_only"]);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/linode.md");
        let page = std::fs::read_to_string(path).unwrap();
        for scope in scopes() {
            assert!(page.contains(&format!("`{scope}`")), "docs/linode.md does not name {scope}");
        }
    }
}
