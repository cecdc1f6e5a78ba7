//! Starts the auth proxy: its TLS, and dialling through the tunnel.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_hub_proxy::{JwksConfig, Proxy, ProxyConfig, ProxyParts};
use blueprint_hub_registry::Authority;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{HubConfig, OAuthConfig, ProxyTls};

/// Binds the proxy; it runs from [`start`] on.
pub(crate) async fn bind(
    config: &HubConfig,
    authority: &Authority,
    parts: ProxyParts,
    metrics: &Metrics,
) -> Result<Proxy> {
    let tls = match &config.proxy_tls {
        ProxyTls::Off => None,
        ProxyTls::Hub => Some(hub_tls(config, authority)?),
        ProxyTls::Files { certificate, key } => Some(file_tls(certificate, key)?),
    };
    let mut proxy = ProxyConfig::new(config.proxy_listen);
    proxy.tls = tls;
    proxy.http3 = config.http3;
    proxy.forwards.clone_from(&config.forwards);
    proxy.jwks = Some(jwks(&config.oauth)?);
    proxy.domain.clone_from(&config.proxy_domain);
    Ok(Proxy::bind(proxy, parts, metrics).await?)
}

/// Runs the proxy until the drain begins.
pub(crate) fn start(supervisor: &Supervisor, proxy: Proxy) {
    supervisor.spawn_essential("proxy", proxy.run(supervisor.child_spawner()));
}

/// From where keys of issuers may be fetched, with the authorities that are believed about it.
fn jwks(config: &OAuthConfig) -> Result<JwksConfig> {
    let authorities = match &config.ca {
        Some(path) => certificates(path)?,
        None => Vec::new(),
    };
    JwksConfig::new(config.hosts.clone(), authorities, config.private_dangerously)
        .context("the authorities in oauth.jwks_ca cannot be used")
}

fn hub_tls(config: &HubConfig, authority: &Authority) -> Result<Arc<ServerConfig>> {
    let mut names: Vec<String> = config.advertise.iter().cloned().collect();
    names.push(format!("*.{}", config.proxy_domain));
    let (certificate, key) = authority.issue_server(&names, SystemTime::now())?;
    server_config(vec![certificate, authority.certificate().clone()], key)
}

fn file_tls(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_reader(BufReader::new(open(key)?))
        .with_context(|| format!("{} is not a PEM private key", key.display()))?;
    server_config(chain, private)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The certificates of a PEM file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_reader_iter(BufReader::new(open(path)?)).collect::<Result<Vec<_>, _>>();
    let found = read.with_context(|| format!("{} is not a PEM file of certificates", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate and key of the proxy do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
