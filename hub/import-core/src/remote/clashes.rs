//! Places that are one provider here, and so cannot be told apart by an order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::engine::SOCKET;
use super::hosts::inventory_name;
use super::{CREDENTIALS, Sort, base, sort_of};
use crate::expand::Around;
use crate::keys::{text, texts};
use crate::remotes::Remote;

/// Why a place that has a provider cannot be ordered at, by what the rest of its file says.
#[derive(Debug, Default)]
pub(crate) struct Clashes {
    /// Providers of which the file has places that differ in what a remote cannot say.
    providers: BTreeSet<String>,
    /// Names that several places have.
    names: BTreeSet<String>,
    /// Names in the inventory of the provider `ssh` that more than one host has, or hosts of places that differ.
    shared: BTreeSet<String>,
}

impl Clashes {
    /// Looks at every place of a file before any of them is a remote.
    pub(crate) fn of(fields: &Map<String, Value>, around: &Around<'_>) -> Self {
        let mut sites: BTreeMap<String, BTreeSet<Vec<&str>>> = BTreeMap::new();
        let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
        let sections = ["remote", "providers"].iter().filter_map(|key| fields.get(*key)?.as_object());
        for (name, value) in sections.flatten() {
            let Some(inner) = value.as_object() else { continue };
            if !seen.insert(name) {
                names.insert(name.clone());
            }
            let sort = sort_of(name, inner);
            let Some(provider) = base(&sort, inner, around).0.provider else { continue };
            if let Some(site) = site(&sort, inner) {
                sites.entry(provider).or_default().insert(site);
            }
        }
        let shared = shared(sites.get("ssh"));
        sites.retain(|_, sites| sites.len() > 1);
        Self { providers: sites.into_keys().collect(), names, shared }
    }

    /// Whether places of this provider differ.
    pub(super) fn differ(&self, remote: &Remote) -> bool {
        remote.provider.as_ref().is_some_and(|provider| self.providers.contains(provider))
    }

    pub(super) fn why(&self, name: &str, remote: &Remote) -> Option<String> {
        if self.names.contains(name) {
            return Some(format!(
                "the file has two places with the name {name:?}; rename one and import again"
            ));
        }
        if let Some(host) = remote.plans.iter().find(|host| self.shared.contains(*host)) {
            return Some(format!(
                "{host} would be the name in the inventory of more than one of the hosts, or of a host of two places, so an \
                 order for one could land on another; name each host in one place alone, by names that differ in more than \
                 dots and capitals, and import again"
            ));
        }
        // Where its machines are named, an order for it lands on none of another.
        let provider = remote.provider.as_ref().filter(|_| self.differ(remote) && remote.plans.is_empty())?;
        Some(merged(provider))
    }
}

/// Names in the inventory that stand for more than one host of these places: of two that have one name there, and of one
/// that two places have.
fn shared(sites: Option<&BTreeSet<Vec<&str>>>) -> BTreeSet<String> {
    let (mut seen, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for host in sites.into_iter().flatten().flatten() {
        let name = inventory_name(host);
        if !seen.insert(name.clone()) {
            shared.insert(name);
        }
    }
    shared
}

/// What to say of several places that are one provider here.
#[must_use]
pub fn merged(provider: &str) -> String {
    format!(
        "several places are the provider {provider}, and an order for one could land on another; order with \
         `deploy --provider {provider}`, with --region where the provider has one for each"
    )
}

/// What tells a place from others of its provider; `None` where it is that of them all.
fn site<'a>(sort: &Sort, fields: &'a Map<String, Value>) -> Option<Vec<&'a str>> {
    match sort {
        Sort::Ssh => {
            let mut hosts = fields.get("hosts").and_then(texts).unwrap_or_default();
            hosts.sort_unstable();
            hosts.dedup();
            Some(hosts)
        }
        Sort::Docker => {
            let written =
                fields.get("endpoint").and_then(text).map(|at| at.strip_prefix("unix://").unwrap_or(at));
            Some(vec![written.unwrap_or(SOCKET)])
        }
        Sort::Cloud(_) => {
            let all: Vec<&str> =
                CREDENTIALS.iter().filter_map(|key| fields.get(*key).and_then(text)).collect();
            (!all.is_empty()).then_some(all)
        }
        Sort::Kubernetes | Sort::Other(_) => None,
    }
}
