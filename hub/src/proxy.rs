//! Starts the auth proxy: where it listens, its TLS, and dialling through the tunnel.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::open_files;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_tunnel::carrier::SharedSocket;
use blueprint_hub_proxy::tls::TlsHandle;
use blueprint_hub_proxy::{
    Http3Socket, JwksConfig, Ledger, OperatorDoor, Pressure, Proxy, ProxyConfig, ProxyParts,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::{Http3Listen, HubConfig, OAuthConfig};
use crate::files::Identity;
use crate::ports::authority;
use crate::tls::TlsOperator;

/// Binds the proxy; it runs from [`start`] on.
pub(crate) async fn bind(
    config: &HubConfig,
    (tls, http3): (Option<TlsHandle>, Http3Socket),
    parts: ProxyParts,
    pressure: Pressure,
    ledger: Ledger,
    metrics: &Metrics,
) -> Result<Proxy> {
    let mut proxy = ProxyConfig::new(config.proxy.listen);
    proxy.tls_listen = config.proxy.tls_listen;
    proxy.tls = tls;
    proxy.http3 = http3;
    proxy.forwards.clone_from(&config.forwards);
    proxy.jwks = Some(jwks(&config.oauth)?);
    proxy.domain.clone_from(&config.proxy_domain);
    config.limits.apply(&mut proxy, open_files::raise_limit());
    proxy.pressure = pressure;
    proxy.ledger = ledger;
    proxy.access_log = config.access_log;
    Ok(Proxy::bind(proxy, parts, metrics).await?)
}

/// The socket of HTTP/3, which is that of the carriers where the configuration says so.
pub(crate) fn http3(config: &HubConfig, carriers: Option<&Arc<SharedSocket>>) -> Result<Http3Socket> {
    let is_must = match config.http3 {
        Http3Listen::Off => return Ok(Http3Socket::Off),
        Http3Listen::Own => return Ok(Http3Socket::Own),
        Http3Listen::CarrierOrOwn => false,
        Http3Listen::Carrier => true,
    };
    let Some(carriers) = carriers else {
        anyhow::ensure!(
            !is_must,
            "proxy.http3_on_carrier is true, but the UDP port of tunnel.carrier_listen is not open: it needs \
             CAP_NET_BIND_SERVICE and a free port; give tunnel.carrier_listen another address, or set \
             proxy.http3_on_carrier to auto"
        );
        return Ok(Http3Socket::Own);
    };
    let shared = carriers.neighbour().context("the carriers' UDP port is shared already")?;
    Ok(Http3Socket::Shared(shared))
}

/// What the operator may do through the proxy, with the token of the JSON API.
pub(crate) fn door(identity: &Identity, admin: Arc<TlsOperator>) -> Option<OperatorDoor> {
    let token = identity.admin_token.expose().parse().ok()?;
    Some(OperatorDoor::new(token, admin))
}

/// Where clients reach the proxy: by TLS where it has that.
pub(crate) fn url(proxy: &Proxy) -> Result<String> {
    Ok(match proxy.tls_addr()? {
        Some(address) => format!("https://{}", authority(address)),
        None => format!("http://{}", authority(proxy.local_addr()?)),
    })
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

/// The certificates of a PEM file, of which there is at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let read = CertificateDer::pem_reader_iter(BufReader::new(file)).collect::<Result<Vec<_>, _>>();
    let found = read.with_context(|| format!("{} is not a PEM file of certificates", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}
