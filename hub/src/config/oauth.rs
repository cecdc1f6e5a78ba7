//! Section `oauth`: from where keys of issuers may be fetched.

use std::path::PathBuf;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_proxy_core::identity::JwksHosts;

pub(super) const HOSTS: Key = Key::unset(
    "oauth.jwks_hosts",
    "Hosts that the jwks_url of a service's OAuth policy may name, such as issuer.example,keys.example:8443; none where \
     not set.",
);
pub(super) const CA: Key = Key::unset(
    "oauth.jwks_ca",
    "PEM file with the authorities of those hosts; the public ones (Mozilla's list) where not set.",
);
pub(super) const PRIVATE: Key = Key::new(
    "oauth.jwks_private_dangerously",
    "false",
    "Let those hosts have addresses that are not public, such as 10.1.2.3.",
);

/// From where keys of issuers may be fetched.
#[derive(Debug, Clone, Default)]
pub(crate) struct OAuthConfig {
    pub(crate) hosts: JwksHosts,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) private_dangerously: bool,
}

impl OAuthConfig {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let text = settings.take_optional::<String>(HOSTS.path, problems).unwrap_or_default();
        let hosts = match text.parse() {
            Ok(hosts) => Some(hosts),
            Err(error) => {
                settings.refuse(HOSTS.path, &format!("{error}"), problems);
                None
            }
        };
        let ca = settings.take_optional::<PathBuf>(CA.path, problems);
        let private_dangerously = settings.take::<bool>(PRIVATE.path, problems);
        Some(Self { hosts: hosts?, ca, private_dangerously: private_dangerously? })
    }
}
