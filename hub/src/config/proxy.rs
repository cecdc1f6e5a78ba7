//! Where the proxy listens, and its TLS.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use blueprint_common_runtime::config::{Problems, Settings};
use blueprint_hub_proxy_core::tls::is_dns_name;

use super::optional_address;

/// Where TLS of the proxy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxyTls {
    Off,
    Hub,
    Files { certificate: PathBuf, key: PathBuf },
    Acme(AcmeSettings),
}

impl ProxyTls {
    /// The value of `proxy.tls`.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Hub => "hub",
            Self::Files { .. } => "files",
            Self::Acme(_) => "acme",
        }
    }
}

/// Whom to ask for certificates, and for which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AcmeSettings {
    pub(crate) directory: String,
    pub(crate) names: BTreeSet<String>,
    pub(crate) contact: Option<String>,
    pub(crate) roots: PathBuf,
}

/// Most names of one certificate; what Let's Encrypt takes.
const MAX_ACME_NAMES: usize = 100;

impl AcmeSettings {
    fn from_settings(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let directory = settings.take::<String>("proxy.acme_directory", problems);
        let names = settings.take::<String>("proxy.acme_names", problems);
        let contact = settings.take_optional::<String>("proxy.acme_contact", problems);
        let roots = settings.take::<PathBuf>("proxy.acme_roots", problems);
        let agrees = settings.take::<bool>("proxy.acme_agree_terms", problems);
        let mut is_good = true;
        let mut refuse = |key, why: &str| {
            settings.refuse(key, why, problems);
            is_good = false;
        };
        if agrees == Some(false) {
            refuse(
                "proxy.acme_agree_terms",
                "false: read the terms of service of the ACME server, and set it to true if you agree",
            );
        }
        if directory.as_deref().is_some_and(|url| !url.starts_with("https://")) {
            refuse("proxy.acme_directory", "not an https URL");
        }
        if contact.as_deref().is_some_and(|mail| !mail.contains('@') || mail.contains(char::is_whitespace)) {
            refuse("proxy.acme_contact", "not a mail address");
        }
        let names: BTreeSet<String> = names?
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        if names.is_empty() || names.len() > MAX_ACME_NAMES {
            refuse("proxy.acme_names", "not 1 to 100 host names");
        }
        if let Some(wrong) = names.iter().find(|name| !is_dns_name(name)) {
            refuse(
                "proxy.acme_names",
                &format!("{wrong:?} is no host name; one with a star cannot be validated"),
            );
        }
        let contact = contact.map(|mail| format!("mailto:{mail}"));
        let acme = Self { directory: directory?, names, contact, roots: roots? };
        is_good.then_some(acme)
    }
}

/// Sockets of the proxy and what they show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxySockets {
    /// Without TLS where `tls_listen` has it, or nobody.
    pub(crate) listen: SocketAddr,
    pub(crate) tls_listen: Option<SocketAddr>,
    pub(crate) tls: ProxyTls,
    /// Folder with further certificates.
    pub(crate) certificates: Option<PathBuf>,
}

impl ProxySockets {
    pub(super) fn from_settings(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let listen = settings.take::<SocketAddr>("proxy.listen", problems);
        let tls_listen = optional_address(settings, "proxy.tls_listen", problems);
        let dangerous = settings.take::<bool>("proxy.plaintext_dangerously", problems);
        let certificates = settings.take_optional::<PathBuf>("proxy.certificates", problems);
        let tls = match settings.text("proxy.tls") {
            Some("off") => Some(ProxyTls::Off),
            Some("hub") => Some(ProxyTls::Hub),
            Some("files") => {
                let certificate = settings.take::<PathBuf>("proxy.certificate", problems);
                let key = settings.take::<PathBuf>("proxy.key", problems);
                certificate.zip(key).map(|(certificate, key)| ProxyTls::Files { certificate, key })
            }
            Some("acme") => AcmeSettings::from_settings(settings, problems).map(ProxyTls::Acme),
            Some(_) | None => {
                settings.refuse("proxy.tls", "not off, hub, files or acme", problems);
                None
            }
        };
        let sockets = Self { listen: listen?, tls_listen: tls_listen?, tls: tls?, certificates };
        sockets.check(dangerous?, settings, problems).then_some(sockets)
    }

    fn check(&self, dangerous: bool, settings: &Settings, problems: &mut Problems) -> bool {
        let mut is_good = true;
        let mut refuse = |key, why| {
            settings.refuse(key, why, problems);
            is_good = false;
        };
        if self.tls == ProxyTls::Off && self.tls_listen.is_some() {
            refuse(
                "proxy.tls_listen",
                "there is no TLS while proxy.tls is off; set it to hub, files or acme",
            );
        }
        if self.tls == ProxyTls::Off && self.certificates.is_some() {
            refuse(
                "proxy.certificates",
                "there is no TLS while proxy.tls is off; set it to hub, files or acme",
            );
        }
        let is_plain = self.tls == ProxyTls::Off || self.tls_listen.is_some();
        if is_plain && !self.listen.ip().is_loopback() && !dangerous {
            refuse(
                "proxy.listen",
                "not loopback and without TLS: tokens would cross the network in clear; set proxy.tls to hub, \
                 files or acme and leave proxy.tls_listen off, or keep this address on loopback",
            );
        }
        is_good
    }
}
