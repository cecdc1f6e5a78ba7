//! Ports that agents and clients share: the proxy's TLS address, one more way to the control plane, and the UDP port of the
//! carriers, where HTTP/3 may be spoken.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_common_tunnel::carrier::QuicLimits;
use blueprint_common_types::HUB_TLS_NAME;
use blueprint_hub_proxy::tls::{Neighbour, TlsHandle};
use blueprint_hub_proxy::{Pressure, Proxy, ProxyParts};
use blueprint_hub_registry::ControlPlane;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

use super::{Base, Sockets};
use crate::config::HubConfig;
use crate::proxy;

/// Opens QUIC's side of the carriers' port, and binds the proxy, which may be a neighbour there.
pub(super) async fn bind_proxy(
    config: &HubConfig,
    tls: Option<TlsHandle>,
    parts: ProxyParts,
    pressure: Pressure,
    base: &Base,
    sockets: &mut Sockets,
) -> Result<Proxy> {
    sockets.quic = base.tunnel.share_port(&QuicLimits::default()).context("cannot share a port with QUIC")?;
    let http3 = proxy::http3(config, sockets.quic.as_ref())?;
    proxy::bind(config, (tls, http3), parts, pressure, base.ledger.clone(), &base.metrics).await
}

/// Where the proxy has TLS, and the table of its handshakes.
pub(super) struct SharedPort {
    pub(super) port: u16,
    handshakes: TlsHandle,
}

impl SharedPort {
    /// `None` where the proxy has no TLS, or has it on loopback alone while machines come from elsewhere.
    pub(super) fn of(
        proxy: &Proxy,
        handshakes: Option<TlsHandle>,
        control: SocketAddr,
    ) -> Result<Option<Self>> {
        let (Some(handshakes), Some(address)) = (handshakes, proxy.tls_addr()?) else { return Ok(None) };
        let is_reached = !address.ip().is_loopback() || control.ip().is_loopback();
        Ok(is_reached.then(|| Self { port: address.port(), handshakes }))
    }

    /// Leaves handshakes for the hub's own name to the control plane, where agents may come so.
    pub(super) fn lead(shared: Option<&Self>, control: &ControlPlane) {
        if let Some(shared) = shared {
            shared.handshakes.share(HUB_TLS_NAME, Arc::new(Agents(control.clone())));
        }
    }
}

/// The control plane, to which agents come through the proxy's socket.
struct Agents(ControlPlane);

impl Neighbour for Agents {
    fn serve(&self, start: StartHandshake<TcpStream>, source: SocketAddr) -> BoxFuture<'static, ()> {
        self.0.clone().serve_begun(start, source).boxed()
    }
}
