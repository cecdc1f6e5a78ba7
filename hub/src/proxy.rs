//! Starts the auth proxy: where it listens, its TLS, and dialling through the tunnel.

use std::sync::Arc;

use anyhow::Result;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_hub_proxy::tls::TlsHandle;
use blueprint_hub_proxy::{OperatorDoor, Proxy, ProxyConfig, ProxyParts};

use crate::config::HubConfig;
use crate::files::Identity;
use crate::ports::authority;
use crate::tls::TlsOperator;

/// Binds the proxy; it runs from [`start`] on.
pub(crate) async fn bind(
    config: &HubConfig,
    tls: Option<TlsHandle>,
    parts: ProxyParts,
    metrics: &Metrics,
) -> Result<Proxy> {
    let mut proxy = ProxyConfig::new(config.proxy.listen);
    proxy.tls_listen = config.proxy.tls_listen;
    proxy.tls = tls;
    proxy.domain.clone_from(&config.proxy_domain);
    Ok(Proxy::bind(proxy, parts, metrics).await?)
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
