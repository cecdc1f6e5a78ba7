//! What the hub's configuration says to the settings of a service, and how it stands with what they ask for.

use std::sync::Arc;

use arc_swap::ArcSwap;
use blueprint_common_types::ServiceKey;
use blueprint_hub_admin::SettingsRefused;
use blueprint_hub_proxy::{Forwards, Jwks};
use blueprint_hub_proxy_core::identity::{JwksHosts, JwksUrl};
use blueprint_hub_proxy_core::{Forward, ForwardPorts, Service, ServiceSettings, Trust};
use serde_json::{Value, json};

/// Looks at settings for the JSON API.
#[derive(Debug, Clone)]
pub(crate) struct ServiceView {
    pub(crate) trust: Arc<ArcSwap<Trust>>,
    pub(crate) jwks_hosts: JwksHosts,
    pub(crate) jwks: Option<Jwks>,
    /// Ports that forwards may have; `None` where there are no forwards.
    pub(crate) ports: Option<ForwardPorts>,
    pub(crate) forwards: Option<Forwards>,
}

impl ServiceView {
    /// Refuses what the hub's configuration does not let any service have, as far as it was not there `before`:
    /// an owner can be taken away also where the configuration has changed.
    pub(crate) fn check(
        &self,
        key: ServiceKey,
        before: &ServiceSettings,
        service: &Service,
    ) -> Result<(), SettingsRefused> {
        let url_of = |settings: &ServiceSettings| settings.oauth.as_ref().and_then(|it| it.jwks_url.clone());
        let is_new = url_of(before) != url_of(service.settings());
        if let Some(url) = service.jwks()
            && is_new
            && !self.jwks_hosts.allows(url)
        {
            return Err(SettingsRefused {
                message: format!("oauth: keys may not be fetched from {}", url.authority()),
                hint: format!("add {} to oauth.jwks_hosts in hub.toml, and restart the hub", url.authority()),
            });
        }
        let mut fresh = service.settings().forwards.iter().filter(|it| !before.forwards.contains(it));
        fresh.try_for_each(|forward| self.check_forward(key, forward))
    }

    fn check_forward(&self, key: ServiceKey, forward: &Forward) -> Result<(), SettingsRefused> {
        let Forward { name, protocol, listen_port, .. } = forward;
        let Some(ports) = &self.ports else {
            return Err(SettingsRefused {
                message: format!("forward {name}: this hub has no raw forwards"),
                hint: "set proxy.forward_ports in hub.toml, such as 20000-20999, and restart the hub"
                    .to_owned(),
            });
        };
        if !ports.contains(*listen_port) {
            return Err(SettingsRefused {
                message: format!("forward {name}: port {listen_port} is not one that forwards may have"),
                hint: format!("take one of {ports}, or change proxy.forward_ports in hub.toml"),
            });
        }
        let trust = self.trust.load();
        if wants_certificates(&trust, key) && !forward.asks_for_certificates() {
            return Err(SettingsRefused {
                message: format!(
                    "forward {name}: service {key} lets in only who shows a certificate, and nobody shows one on a raw port without TLS"
                ),
                hint: format!(
                    "give the forward \"tls\": true, or let the profile not ask: `blueprint-hub service tls set {key}` without --require-client-cert"
                ),
            });
        }
        let has_it = |service: &Arc<Service>| {
            let mut held = service.settings().forwards.iter();
            held.any(|other| (other.protocol, other.listen_port) == (*protocol, *listen_port))
        };
        match trust.services.iter().find(|(other, service)| **other != key && has_it(service)) {
            Some((other, _)) => Err(SettingsRefused {
                message: format!("forward {name}: {protocol} port {listen_port} belongs to service {other}"),
                hint: format!("take another one of {ports}"),
            }),
            None => Ok(()),
        }
    }

    /// How it stands with what the settings of a service ask for.
    pub(crate) fn status(&self, key: ServiceKey) -> Value {
        let trust = self.trust.load();
        let Some(service) = trust.services.get(&key) else {
            return json!({ "jwks": null, "forwards": [] });
        };
        let settings = service.settings();
        let closed = (settings.hidden, wants_certificates(&trust, key));
        let forwards: Vec<_> = settings.forwards.iter().map(|it| self.forward(key, it, closed)).collect();
        json!({ "jwks": service.jwks().map(|url| self.issuer(url)), "forwards": forwards })
    }

    fn issuer(&self, url: &JwksUrl) -> Value {
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
    }

    fn forward(&self, key: ServiceKey, forward: &Forward, (is_hidden, wants): (bool, bool)) -> Value {
        let place = (forward.protocol, forward.listen_port);
        let status = self.forwards.as_ref().and_then(|forwards| forwards.status().remove(&place));
        let status = status.filter(|status| status.service == key && status.name == forward.name);
        let problem = match (&status, &self.ports) {
            _ if is_hidden => {
                Some("the service is hidden; blueprint-hub service expose undoes it".to_owned())
            }
            _ if wants && !forward.asks_for_certificates() => Some(
                "the service lets in only who shows a certificate; \"tls\": true opens it, or service tls set without --require-client-cert"
                    .to_owned(),
            ),
            (Some(status), _) => status.problem.clone(),
            (None, None) => Some("proxy.forward_ports is not set in hub.toml".to_owned()),
            (None, Some(ports)) if !ports.contains(forward.listen_port) => {
                Some(format!("the port is not within proxy.forward_ports, {ports}"))
            }
            (None, Some(_)) => Some("not open yet, or another service has the port".to_owned()),
        };
        json!({
            "name": forward.name,
            "protocol": forward.protocol,
            "listen_port": forward.listen_port,
            "listening": problem.is_none(),
            "open": status.map_or(0, |status| status.open),
            "problem": problem,
        })
    }
}

/// Whether only callers with a certificate get to a service.
fn wants_certificates(trust: &Trust, key: ServiceKey) -> bool {
    trust.tls.get(&key).is_some_and(|tls| tls.requires_client)
}
