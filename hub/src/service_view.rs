//! What the hub's configuration says to the settings of a service, and how it stands with what they ask for.

use std::sync::Arc;

use arc_swap::ArcSwap;
use blueprint_common_types::ServiceKey;
use blueprint_hub_admin::SettingsRefused;
use blueprint_hub_proxy::Jwks;
use blueprint_hub_proxy_core::identity::JwksHosts;
use blueprint_hub_proxy_core::{Service, ServiceSettings, Trust};
use serde_json::{Value, json};

/// Looks at settings for the JSON API.
#[derive(Debug, Clone)]
pub(crate) struct ServiceView {
    pub(crate) trust: Arc<ArcSwap<Trust>>,
    pub(crate) jwks_hosts: JwksHosts,
    pub(crate) jwks: Option<Jwks>,
}

impl ServiceView {
    /// Refuses what the hub's configuration does not let any service have, as far as it was not there `before`:
    /// an owner can be taken away also where the configuration has changed.
    pub(crate) fn check(&self, before: &ServiceSettings, service: &Service) -> Result<(), SettingsRefused> {
        let url_of = |settings: &ServiceSettings| settings.oauth.as_ref().and_then(|it| it.jwks_url.clone());
        let is_new = url_of(before) != url_of(service.settings());
        match service.jwks() {
            Some(url) if is_new && !self.jwks_hosts.allows(url) => Err(SettingsRefused {
                message: format!("oauth: keys may not be fetched from {}", url.authority()),
                hint: format!("add {} to oauth.jwks_hosts in hub.toml, and restart the hub", url.authority()),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// How it stands with what the settings of a service ask for.
    pub(crate) fn status(&self, key: ServiceKey) -> Value {
        let trust = self.trust.load();
        let url = trust.services.get(&key).and_then(|service| service.jwks());
        let jwks = url.map(|url| {
            let status = self.jwks.as_ref().and_then(|jwks| jwks.status(url));
            let problem = match &status {
                _ if !self.jwks_hosts.allows(url) => {
                    Some(format!("{} is not in oauth.jwks_hosts of hub.toml", url.authority()))
                }
                Some(status) => status.problem.clone(),
                None => Some("not fetched yet, or from too many issuers".to_owned()),
            };
            json!({
                "url": url.to_string(),
                "keys": status.as_ref().map_or(0, |status| status.keys),
                "age_secs": status.and_then(|status| status.age).map(|age| age.as_secs()),
                "problem": problem,
            })
        });
        json!({ "jwks": jwks })
    }
}
