//! The DNS of the overlay, put to the registry and the tunnel.

use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_tunnel_core::OverlayPrefixes;
use blueprint_common_types::WgPublicKey;
use blueprint_hub_discovery::{Directory, DnsServer, Reach, Zone};
use blueprint_hub_registry::RegistrarHandle;
use blueprint_hub_registry_core::RegistrySnapshot;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::net::{TcpListener, UdpSocket};
use tracing::info;

use crate::app::spawn;
use crate::config::DiscoveryConfig;

/// What the DNS knows: the registry, and the policy that the packets go by.
struct Known {
    registrar: RegistrarHandle,
    tunnel: Tunnel,
}

impl Reach for Known {
    fn may_connect(&self, source: &WgPublicKey, destination: &WgPublicKey, port: u16) -> bool {
        self.tunnel.may_connect(source, destination, port)
    }

    fn may_reach(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool {
        self.tunnel.may_reach(source, destination)
    }
}

impl Directory for Known {
    fn snapshot(&self) -> Arc<RegistrySnapshot> {
        self.registrar.snapshot()
    }
}

/// Opens the ports and starts what answers there.
pub(crate) async fn start(
    config: &DiscoveryConfig,
    prefixes: OverlayPrefixes,
    (registrar, tunnel): (RegistrarHandle, Tunnel),
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<()> {
    let zone = Zone::new(config.domain.clone(), prefixes);
    let known = Arc::new(Known { registrar, tunnel: tunnel.clone() });
    let server = DnsServer::new(zone, known, metrics, supervisor.child_spawner());
    let begin = |name, task: BoxFuture<'static, ()>| {
        let stop = supervisor.stop().stop;
        spawn(supervisor, name, async move { stop.run_until_cancelled(task).await.unwrap_or(()) });
    };
    if let Some(port) = config.port {
        let why = || {
            format!(
                "cannot serve DNS at port {port} inside the tunnel; give discovery.dns_port another, or off"
            )
        };
        let datagrams = tunnel.listen_udp(port).await.with_context(why)?;
        let streams = tunnel.listen(port).await.with_context(why)?;
        begin("dns", server.clone().serve_overlay(datagrams).boxed());
        begin("dns streams", server.clone().serve_overlay_streams(streams).boxed());
    }
    if let Some(address) = config.listen {
        let why = || format!("cannot serve DNS at {address}; give discovery.dns_listen another, or off");
        let datagrams = UdpSocket::bind(address).await.with_context(why)?;
        let streams = TcpListener::bind(datagrams.local_addr()?).await.with_context(why)?;
        info!(address = %datagrams.local_addr()?, "DNS for programs of this machine");
        begin("local dns", server.clone().serve_local(datagrams).boxed());
        begin("local dns streams", server.serve_local_streams(streams).boxed());
    }
    Ok(())
}
