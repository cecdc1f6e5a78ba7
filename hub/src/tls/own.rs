//! The certificate of the hub's own authority: for the hub, and for the host names of the services that it offers.

use std::collections::BTreeSet;
use std::time::SystemTime;

use anyhow::Result;
use blueprint_hub_proxy::tls::{Material, TlsHandle};
use blueprint_hub_registry::Authority;
use parking_lot::Mutex;
use tracing::{error, warn};

/// Most blueprints whose services are in one certificate: with more, a handshake would not fit a few packets.
const MAX_BLUEPRINTS: usize = 200;

/// Makes the certificate again whenever services of another blueprint come.
pub(crate) struct OwnCertificate {
    authority: Authority,
    host: Option<String>,
    domain: String,
    blueprints: Mutex<BTreeSet<u64>>,
}

impl OwnCertificate {
    pub(super) fn new(authority: Authority, host: Option<String>, domain: &str) -> Self {
        Self { authority, host, domain: domain.to_ascii_lowercase(), blueprints: Mutex::default() }
    }

    /// Certificate and key, for what is offered now.
    pub(super) fn make(&self) -> Result<Material> {
        let mut names: Vec<String> = self.host.iter().cloned().collect();
        names.push(format!("*.{}", self.domain));
        // A star stands for one label, and the names of services have two before the domain.
        let of_services = self.blueprints.lock().iter().take(MAX_BLUEPRINTS).copied().collect::<Vec<_>>();
        names.extend(of_services.into_iter().map(|blueprint| format!("*.b{blueprint}.{}", self.domain)));
        let (certificate, key) = self.authority.issue_server(&names, SystemTime::now())?;
        Ok(Material::from_der(vec![certificate, self.authority.certificate().clone()], key)?)
    }

    /// Takes note of the blueprints whose services are offered; those that go stay in.
    pub(super) fn follow(&self, offered: impl Iterator<Item = u64>, handle: &TlsHandle) {
        {
            let mut blueprints = self.blueprints.lock();
            let before = blueprints.len();
            blueprints.extend(offered.take(MAX_BLUEPRINTS.saturating_mul(100)));
            if blueprints.len() == before {
                return;
            }
            if blueprints.len() > MAX_BLUEPRINTS {
                warn!(
                    most = MAX_BLUEPRINTS,
                    "the hub's own certificate does not name the services of every blueprint"
                );
            }
        }
        match self.make() {
            Ok(material) => handle.set_fallback(material),
            Err(error) => {
                error!(error = format!("{error:#}"), "the hub's own certificate does not name every service")
            }
        }
    }
}
