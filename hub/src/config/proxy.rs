//! Where the proxy listens, and its TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use blueprint_common_runtime::config::{Problems, Settings};

use super::optional_address;

/// Where TLS of the proxy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxyTls {
    Off,
    Hub,
    Files { certificate: PathBuf, key: PathBuf },
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
            Some(_) | None => {
                settings.refuse("proxy.tls", "not off, hub or files", problems);
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
            refuse("proxy.tls_listen", "there is no TLS while proxy.tls is off; set it to hub or files");
        }
        if self.tls == ProxyTls::Off && self.certificates.is_some() {
            refuse("proxy.certificates", "there is no TLS while proxy.tls is off; set it to hub or files");
        }
        let is_plain = self.tls == ProxyTls::Off || self.tls_listen.is_some();
        if is_plain && !self.listen.ip().is_loopback() && !dangerous {
            refuse(
                "proxy.listen",
                "not loopback and without TLS: tokens would cross the network in clear; set proxy.tls to hub or \
                 files and leave proxy.tls_listen off, or keep this address on loopback",
            );
        }
        is_good
    }
}
