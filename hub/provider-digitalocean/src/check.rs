//! Whether the token can be used as the hub is configured, before anything is ordered.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{nothing_stands, redacted};
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState, Tidied};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::api::{Call, Rows, call, now};
use crate::cloud::DigitalOcean;
use crate::{actions, cloud, errors, guard, litter};

/// Longest text of an account that is shown, in bytes.
const MAX_SHOWN: usize = 256;

const ACCOUNT: Call = call("account_get", "account:read");
const REGIONS: Call = call("regions_list", "regions:read");

/// Calls that only read, and so can be tried.
const TRIED: [(Call, &str); 5] = [
    (cloud::LIST, "/v2/droplets?per_page=1"),
    (cloud::SIZES, "/v2/sizes?per_page=1"),
    (guard::FIREWALL_LIST, "/v2/firewalls?per_page=1"),
    (guard::KEY_LIST, "/v2/account/keys?per_page=1"),
    (litter::TAG_LIST, "/v2/tags?per_page=1"),
];

/// Every call of this crate, in the order of their scopes.
pub(crate) const ALL: [Call; 22] = [
    ACCOUNT,
    cloud::CREATE,
    cloud::LIST,
    cloud::GET,
    actions::ACTION_LIST,
    actions::ACTION_POST,
    cloud::DESTROY,
    cloud::DESTROY_WITH,
    guard::FIREWALL_CREATE,
    guard::FIREWALL_LIST,
    guard::FIREWALL_GET,
    guard::FIREWALL_UPDATE,
    guard::FIREWALL_DELETE,
    REGIONS,
    cloud::SIZES,
    guard::KEY_CREATE,
    guard::KEY_LIST,
    guard::KEY_DELETE,
    guard::TAG_CREATE,
    litter::TAG_DELETE,
    litter::TAG_LIST,
    litter::TAG_GET,
];

/// The scopes that a token needs for what this crate calls, and no others. DigitalOcean adds by itself what these draw in.
///
/// `account:read` and `regions:read` are for the check alone: orders do without them.
#[must_use]
pub fn scopes() -> Vec<&'static str> {
    let mut scopes: Vec<_> = ALL.iter().map(|call| call.scope).collect();
    scopes.dedup();
    scopes
}

#[derive(Deserialize)]
struct Whole {
    account: Owner,
}

#[derive(Deserialize)]
struct Owner {
    uuid: String,
    #[serde(default)]
    email: String,
    droplet_limit: u64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    status_message: String,
    #[serde(default)]
    team: Option<Team>,
}

#[derive(Deserialize)]
struct Team {
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Regions {
    regions: Vec<Region>,
}

#[derive(Deserialize)]
struct Region {
    slug: String,
    available: bool,
}

impl Rows for Regions {
    type Row = Region;

    fn rows(self) -> Vec<Region> {
        self.regions
    }

    fn id(row: &Region) -> String {
        row.slug.clone()
    }
}

impl Account for DigitalOcean {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.account().boxed()
    }

    fn tidy<'a>(&'a self, hub: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            nothing_stands(self, Some(hub)).await?;
            self.guard.remove(&self.api, tidied).await?;
            let _ordering = self.ordering.write().await;
            litter::clean(&self.api, tidied).await
        }
        .boxed()
    }
}

impl DigitalOcean {
    /// Asks whose token it is, what it may read, and which of the regions there are. Nothing is made: whether it may make and
    /// delete cannot be tried so.
    ///
    /// # Errors
    ///
    /// Where DigitalOcean does not know the token, or cannot be reached.
    async fn account(&self) -> Result<AccountReport, ProviderError> {
        let mut report = AccountReport::default();
        self.owner(&mut report).await?;
        for (call, path) in TRIED {
            let answer = self.api.send(call, Method::GET, path, None).await?;
            if answer.status().is_success() {
                report.note_right(call.scope, RightState::Held);
                continue;
            }
            let error = errors::refused(call, &answer, now());
            if answer.status() != StatusCode::FORBIDDEN {
                return Err(error);
            }
            report.note_right(call.scope, RightState::Missing);
            report.problems.push(error.line());
        }
        self.known_regions(&mut report).await?;
        for call in ALL {
            report.note_right(call.scope, RightState::Untried);
        }
        Ok(report)
    }

    async fn owner(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let answer = self.api.send(ACCOUNT, Method::GET, "/v2/account", None).await?;
        if answer.status() == StatusCode::FORBIDDEN {
            report.note_right(ACCOUNT.scope, RightState::Missing);
            report.notes.push(
                "whose token it is cannot be said: it lacks the scope account:read, which orders do without"
                    .to_owned(),
            );
            return Ok(());
        }
        if !answer.status().is_success() {
            return Err(errors::refused(ACCOUNT, &answer, now()));
        }
        let read = serde_json::from_slice(answer.body());
        let Whole { account } = read.map_err(|error| errors::nonsense(ACCOUNT, &answer, &error))?;
        report.note_right(ACCOUNT.scope, RightState::Held);
        let Owner { uuid, email, droplet_limit, status, status_message, team } = account;
        let (email, status, status_message) = (shown(&email), shown(&status), shown(&status_message));
        // Droplets belong to the team where there is one.
        let (number, name) =
            team.map_or((String::new(), String::new()), |team| (shown(&team.uuid), shown(&team.name)));
        report.account = if number.is_empty() { shown(&uuid) } else { number };
        report.identity = match name.as_str() {
            "" => email,
            name => format!("{email}, team {name}"),
        };
        report.quotas.push(("droplets".to_owned(), droplet_limit));
        if !status.is_empty() && status != "active" {
            report.problems.push(format!(
                "the account is {status}: {status_message}; DigitalOcean's support says what it wants"
            ));
        }
        Ok(())
    }

    async fn known_regions(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let known = match self.api.list::<Regions>(REGIONS, "/v2/regions").await {
            Ok((known, _)) => known,
            Err(ProviderError::Deny { action }) => {
                report.note_right(REGIONS.scope, RightState::Missing);
                report.notes.push(format!("whether the regions exist is not known: not allowed to {action}"));
                report.regions = self.regions.iter().map(|region| (region.clone(), None)).collect();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        report.note_right(REGIONS.scope, RightState::Held);
        for region in &self.regions {
            let found = known.iter().find(|own| own.slug == *region);
            report.regions.push((region.clone(), Some(found.is_some_and(|own| own.available))));
            let why = match found {
                Some(Region { available: true, .. }) => continue,
                Some(_) => "DigitalOcean makes nothing new there now; take it out",
                None => "DigitalOcean has no such region; correct it",
            };
            report
                .problems
                .push(format!("{region}: {why} in providers.digitalocean.regions and start the hub again"));
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
        let scopes = scopes();
        assert_eq!(scopes.iter().collect::<BTreeSet<_>>().len(), scopes.len(), "{scopes:?}");
    }

    #[test]
    fn texts_of_an_account_are_short_lines_without_secrets() {
        let text = format!("a\u{1b}[31mb\nc dop_v1_canary {}", "x".repeat(10_000));
        let shown = shown(&text);
        assert!(shown.starts_with("a[31mb c [hidden] xx") && shown.len() == MAX_SHOWN, "{shown}");
    }

    #[test]
    fn the_page_of_the_manual_names_every_scope() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/provisioning.md");
        let page = std::fs::read_to_string(path).unwrap();
        for scope in scopes() {
            let (what, verb) = scope.split_once(':').unwrap();
            let begin = format!("`{what}:");
            let listed = page.split(&begin).skip(1).map(|rest| rest.split('`').next().unwrap());
            let is_there = listed.into_iter().any(|verbs| verbs.split(',').any(|own| own == verb));
            assert!(is_there, "docs/provisioning.md does not name {scope}");
        }
    }
}
