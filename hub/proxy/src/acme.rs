//! Certificates by ACME (RFC 8555), validated on the proxy's own TLS port (tls-alpn-01, RFC 8737).
//!
//! One task orders one certificate for all names, puts it in use, keeps it with its key in the state folder, and
//! orders the next at two thirds of its life. While it cannot, the one before stays in use. What the disk does not
//! take is in use all the same, and written as soon as it can be.

mod http;
mod keep;
mod order;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::state::{StateDir, StateError};
use blueprint_common_types::{Secret, Timestamp, fill_random};
use blueprint_hub_proxy_core::tls::Renewal;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tls::{Material, TlsHandle};

use keep::Files;
use order::Orders;
pub use status::{AcmeState, AcmeStatus};

/// File with the certificate chain and its private key, PEM.
const CERTIFICATE: &str = "acme.pem";

/// Longest time for one order, from the first request to the certificate.
const ORDER_TIME: Duration = Duration::from_secs(300);

/// Longest time between two looks at the clock, which may jump while this process sleeps; what is not on the
/// disk yet is tried again as often.
const LOOK: Duration = Duration::from_secs(60);

/// Whom to ask for what.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// URL of the server's directory, `https` only.
    pub directory: String,
    /// Where the server may write to, such as `mailto:ops@example.com`; may be empty.
    pub contact: Vec<String>,
    /// Host names, 1 to 100, without stars.
    pub names: BTreeSet<String>,
    /// Authorities by which the server is known.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why ACME cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The state folder.
    #[error("cannot read the certificate that was ordered before")]
    State(#[from] StateError),
    /// None of the authorities is one.
    #[error("none of the authorities in proxy.acme_roots can be used")]
    Roots,
}

/// Orders certificates.
pub struct Acme {
    config: AcmeConfig,
    orders: Orders,
    files: Files,
    handle: TlsHandle,
    status: Arc<AcmeStatus>,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Acme {
    /// Puts the certificate in use that was ordered before, if there is one.
    ///
    /// # Errors
    ///
    /// Fails where the state folder cannot be read or no authority can be used.
    pub fn new(
        config: AcmeConfig,
        state: StateDir,
        handle: TlsHandle,
        metrics: &Metrics,
    ) -> Result<Self, AcmeError> {
        let mut roots = RootCertStore::empty();
        let (used, _) = roots.add_parsable_certificates(config.roots.iter().cloned());
        if used == 0 {
            return Err(AcmeError::Roots);
        }
        let status = Arc::new(AcmeStatus::register(metrics, &config.names));
        let files = Files::new(state);
        let orders = Orders::new(config.clone(), roots, files.clone(), handle.clone());
        let acme = Self { config, orders, files, handle, status };
        acme.use_stored()?;
        Ok(acme)
    }

    /// What it is doing, for operators.
    #[must_use]
    pub fn status(&self) -> Arc<AcmeStatus> {
        Arc::clone(&self.status)
    }

    /// Orders whenever it is time, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut renewal = Renewal::default();
        loop {
            let due = renewal.due(self.life(), random());
            self.status.set_next(due);
            if stop.run_until_cancelled(self.wait(due)).await.is_none() {
                return;
            }
            let ordered = timeout(ORDER_TIME, self.orders.order());
            let Some(ordered) = stop.run_until_cancelled(ordered).await else { return };
            let ordered = ordered.unwrap_or_else(|_| Err(order::OrderError::TooLong(ORDER_TIME)));
            let wish = self.orders.take_wish();
            let used = ordered.and_then(|pem| self.use_and_keep(&pem));
            match used {
                Ok(until) => {
                    info!(%until, names = self.config.names.len(), "certificate ordered by acme");
                    renewal.note_success();
                    self.status.note_success(until);
                }
                Err(error) => {
                    let now = Timestamp::from(SystemTime::now());
                    renewal.note_failure(wish, random(), now);
                    let (error, failures) = (Chain(&error).to_string(), renewal.failures());
                    warn!(error, failures, next = %renewal.due(None, 0), "no certificate by acme, the one before stays in use");
                    self.status.note_failure(&error, failures);
                }
            }
        }
    }

    /// Life of the certificate at hand, where it is for the names that are wanted.
    fn life(&self) -> Option<(Timestamp, Timestamp)> {
        let material = self.status.material()?;
        let facts = material.facts();
        let hosts: BTreeSet<String> = facts.hosts.iter().cloned().collect();
        (hosts == self.config.names).then_some((facts.not_before, facts.not_after))
    }

    fn use_stored(&self) -> Result<(), StateError> {
        let Some(pem) = self.files.read(CERTIFICATE)? else { return Ok(()) };
        match Material::from_pem(pem.expose(), &pem) {
            Ok(material) => self.put(material),
            Err(error) => {
                warn!(%error, "{CERTIFICATE} in the state folder cannot be used, another one is ordered")
            }
        }
        Ok(())
    }

    /// Puts in use what came, and stores it, now or later; says when it ends.
    fn use_and_keep(&self, pem: &Secret<String>) -> Result<Timestamp, order::OrderError> {
        let bytes = Secret::new(pem.expose().as_bytes().to_vec());
        let material = Material::from_pem(bytes.expose(), &bytes)?;
        let until = material.not_after();
        self.put(material);
        self.files.write(CERTIFICATE, bytes);
        Ok(until)
    }

    /// Waits until `due`, and writes meanwhile what is not on the disk.
    async fn wait(&self, due: Timestamp) {
        loop {
            self.status.set_unsaved(self.files.retry());
            let now = Timestamp::from(SystemTime::now());
            if now >= due {
                return;
            }
            sleep(due.since(now).min(LOOK)).await;
        }
    }

    fn put(&self, material: Material) {
        self.status.set_material(material.clone());
        self.handle.set_ordered(Some(material));
    }
}

fn random() -> u32 {
    let mut bytes = [0u8; 4];
    // Without randomness hubs come together, which harms nobody but the server.
    let _ = fill_random(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
