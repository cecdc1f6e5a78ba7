//! Everything that handshakes go by, made once and swapped whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::tls::NameTable;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use tracing::error;

use super::material::Material;

/// Protocol by which an ACME server validates a host name (RFC 8737).
const ACME_ALPN: &[u8] = b"acme-tls/1";

/// Why something cannot be used in handshakes.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refused it.
    #[error("cannot set up TLS")]
    Rustls(#[from] rustls::Error),
    /// An authority that cannot be one.
    #[error("cannot verify clients by these authorities")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
}

/// By whom certificates of clients are to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuthorities {
    /// The authorities.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Their SHA-256, by which requests know them again.
    pub digest: [u8; 32],
    /// Whether a handshake without a certificate fails.
    pub required: bool,
}

impl ClientAuthorities {
    /// Whether a TLS library can verify by them.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn check(&self) -> Result<(), TlsError> {
        self.verifier(&Arc::new(ring::default_provider())).map(drop)
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots.add(certificate.clone())?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = if self.required { builder } else { builder.allow_unauthenticated() };
        Ok(builder.build()?)
    }
}

/// A service with a TLS profile, as handshakes see it.
#[derive(Debug, Clone)]
pub struct ServiceHandshake {
    /// The service.
    pub service: ServiceKey,
    /// Its host names.
    pub names: Vec<String>,
    /// Its certificate; without one, handshakes for its names fail.
    pub material: Option<Material>,
    /// Whose clients' certificates count; `None` where nobody is asked for one.
    pub clients: Option<ClientAuthorities>,
}

/// What goes into a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// The certificate of ACME, for unknown names, too.
    pub(crate) ordered: Option<Material>,
    /// Certificates of the operator, the one for unknown names first.
    pub(crate) configured: Vec<Material>,
    /// What meets clients while there is none of those.
    pub(crate) fallback: Option<Material>,
    pub(crate) services: Vec<ServiceHandshake>,
    /// Certificates of pending ACME challenges by host name.
    pub(crate) challenges: BTreeMap<String, Material>,
}

/// What a handshake is to do.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    Serve(Arc<Served>),
    /// Show this certificate and close.
    Challenge(Arc<ServerConfig>),
    /// There is nothing to show.
    Refuse,
}

/// One set-up, and the service it is bound to with the digest of its authorities.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) bound: Option<(ServiceKey, [u8; 32])>,
}

impl Served {
    fn without_protocols(&self) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = Vec::new();
        Self { config: Arc::new(config), key: Arc::clone(&self.key), bound: self.bound }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TlsTable {
    names: NameTable<Choice>,
    /// For raw forwards, which know the service by their port: no protocol is agreed on there.
    services: BTreeMap<ServiceKey, Arc<Served>>,
    challenges: BTreeMap<String, Arc<ServerConfig>>,
    default: Option<Choice>,
}

impl TlsTable {
    /// Makes the table. What cannot be used is logged and refuses its own names; the rest goes on.
    pub(crate) fn build(parts: &Parts, tickets: &Arc<dyn ProducesTickets>) -> Self {
        let mut table = Self::default();
        for service in &parts.services {
            let choice = serve_service(service, tickets);
            if let Choice::Serve(served) = &choice {
                table.services.insert(service.service, Arc::new(served.without_protocols()));
            }
            for name in &service.names {
                table.names.insert(name, choice.clone());
            }
        }
        for material in parts.ordered.iter().chain(&parts.configured).chain(&parts.fallback) {
            let choice = match config(material, None, Some(tickets)) {
                Ok(config) => Choice::Serve(Arc::new(Served { config, key: material.key(), bound: None })),
                Err(error) => {
                    error!(subject = material.facts().subject, %error, "certificate not used");
                    continue;
                }
            };
            for name in &material.facts().hosts {
                table.names.insert(name, choice.clone());
            }
            table.default.get_or_insert(choice);
        }
        for (name, material) in &parts.challenges {
            if let Ok(mut config) = config(material, None, None).map(Arc::unwrap_or_clone) {
                config.alpn_protocols = vec![ACME_ALPN.to_vec()];
                table.challenges.insert(name.clone(), Arc::new(config));
            }
        }
        table
    }

    /// What a raw forward of this service goes by; `None` where it has no TLS profile that can be used.
    pub(crate) fn of_service(&self, service: ServiceKey) -> Option<Arc<Served>> {
        self.services.get(&service).cloned()
    }

    /// What is to be done for a client that asks for this host name and speaks these protocols.
    pub(crate) fn choose<'p>(&self, name: Option<&str>, mut alpn: impl Iterator<Item = &'p [u8]>) -> Choice {
        if alpn.any(|protocol| protocol == ACME_ALPN) {
            let pending = name.and_then(|name| self.challenges.get(&name.to_ascii_lowercase()));
            return pending.map_or(Choice::Refuse, |config| Choice::Challenge(Arc::clone(config)));
        }
        let named = name.and_then(|name| self.names.find(name));
        named.or(self.default.as_ref()).cloned().unwrap_or(Choice::Refuse)
    }
}

fn serve_service(service: &ServiceHandshake, tickets: &Arc<dyn ProducesTickets>) -> Choice {
    let Some(material) = &service.material else { return Choice::Refuse };
    let tickets = service.clients.is_none().then_some(tickets);
    match config(material, service.clients.as_ref(), tickets) {
        Ok(config) => {
            let bound = service.clients.as_ref().map(|clients| (service.service, clients.digest));
            Choice::Serve(Arc::new(Served { config, key: material.key(), bound }))
        }
        Err(error) => {
            error!(service = %service.service, %error, "tls profile not used, the host names of the service refuse");
            Choice::Refuse
        }
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
fn config(
    material: &Material,
    clients: Option<&ClientAuthorities>,
    tickets: Option<&Arc<dyn ProducesTickets>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = match clients {
        Some(clients) => clients.verifier(&provider)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(material.key())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match tickets {
        Some(tickets) => config.ticketer = Arc::clone(tickets),
        // A session that is resumed shows no certificate again: it would outlive the profile it was verified by.
        None => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}
