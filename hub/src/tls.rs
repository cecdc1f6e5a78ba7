//! Where the proxy's certificates come from: the hub's own authority, ACME, files, and a look at the files every
//! few seconds and at every SIGHUP; and the TLS profiles of services.

mod issue;
mod operator;
mod own;
mod profiles;
mod services;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_hub_proxy::acme::{Acme, AcmeConfig, AcmeStatus};
use blueprint_hub_proxy::tls::{CertificateFiles, TlsHandle};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{AcmeSettings, HubConfig, ProxyTls};
use crate::files;

pub(crate) use operator::TlsOperator;
pub(crate) use own::OwnCertificate;
pub(crate) use services::TlsServices;

/// How often certificate files are looked at.
const LOOK: Duration = Duration::from_secs(3);

/// What meets clients, and what ACME does for it; both `None` where the proxy has no TLS.
#[derive(Clone, Default)]
pub(crate) struct ProxyHandshakes {
    pub(crate) handle: Option<TlsHandle>,
    pub(crate) acme: Option<Arc<AcmeStatus>>,
    pub(crate) own: Option<Arc<OwnCertificate>>,
    /// Host names of the hub itself, which no service can have.
    pub(crate) reserved: BTreeSet<String>,
}

/// Fills the handle as the configuration says.
pub(crate) fn start(
    config: &HubConfig,
    state: &StateDir,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<ProxyHandshakes> {
    let first: Option<(PathBuf, PathBuf)> = match &config.proxy.tls {
        ProxyTls::Off => {
            let watched = watch(CertificateFiles::default(), None, supervisor.stop().stop);
            crate::app::spawn(supervisor, "proxy certificates", watched);
            return Ok(ProxyHandshakes::default());
        }
        ProxyTls::Hub | ProxyTls::Acme(_) => None,
        ProxyTls::Files { certificate, key } => Some((certificate.clone(), key.clone())),
    };
    let authority = files::load(state)?.authority;
    let own = OwnCertificate::new(authority, config.advertise.clone(), &config.proxy_domain);
    let handle = TlsHandle::new(Some(own.make()?), metrics).context("cannot set up TLS of the proxy")?;
    let mut files = CertificateFiles::new(first, config.proxy.certificates.clone());
    handle.set_configured(files.load().context("cannot use a certificate of the proxy")?);
    let watched = watch(files, Some(handle.clone()), supervisor.stop().stop);
    crate::app::spawn(supervisor, "proxy certificates", watched);
    let acme = match &config.proxy.tls {
        ProxyTls::Acme(settings) => Some(order(settings, state, &handle, metrics, supervisor)?),
        ProxyTls::Off | ProxyTls::Hub | ProxyTls::Files { .. } => None,
    };
    let mut reserved: BTreeSet<String> =
        config.advertise.iter().map(|host| host.to_ascii_lowercase()).collect();
    if let ProxyTls::Acme(settings) = &config.proxy.tls {
        reserved.extend(settings.names.iter().cloned());
    }
    Ok(ProxyHandshakes { handle: Some(handle), acme, own: Some(Arc::new(own)), reserved })
}

/// Has certificates ordered; until the first comes, the hub's own meets clients.
fn order(
    settings: &AcmeSettings,
    state: &StateDir,
    handle: &TlsHandle,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<Arc<AcmeStatus>> {
    let roots = &settings.roots;
    let read = CertificateDer::pem_file_iter(roots);
    let read = read.with_context(|| format!("cannot read proxy.acme_roots, {}", roots.display()))?;
    let config = AcmeConfig {
        directory: settings.directory.clone(),
        contact: settings.contact.iter().cloned().collect(),
        names: settings.names.clone(),
        // A system's list may hold one that this library does not know how to read.
        roots: read.filter_map(Result::ok).collect(),
    };
    let acme = Acme::new(config, state.clone(), handle.clone(), metrics)?;
    let status = acme.status();
    crate::app::spawn(supervisor, "acme", acme.run(supervisor.stop().drain));
    Ok(status)
}

/// Looks at the files until `stop`. Without TLS there are none, and SIGHUP is still no reason to end.
async fn watch(files: CertificateFiles, handle: Option<TlsHandle>, stop: CancellationToken) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            error!(%error, "cannot listen to SIGHUP, certificates are not read again");
            return;
        }
    };
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let files = Arc::new(Mutex::new(files));
    loop {
        let is_asked_for = tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => false,
            received = hangup.recv() => {
                info!("SIGHUP: certificates are read again");
                received.is_some()
            }
        };
        let Some(handle) = handle.clone() else { continue };
        let files = Arc::clone(&files);
        // The disk may be slow, and the runtime has few threads.
        let looked = tokio::task::spawn_blocking(move || files.lock().refresh(&handle, is_asked_for));
        let _ = looked.await;
    }
}
