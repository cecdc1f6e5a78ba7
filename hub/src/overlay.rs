//! Ways over the overlay for sessions of the operator.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_runtime::datagrams::Datagrams;
use blueprint_common_tunnel::{Tunnel, UdpFlow};
use blueprint_hub_admin::{Overlay, SessionStream};
use futures_util::future::{BoxFuture, FutureExt};

/// How long a connection through the tunnel may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The tunnel as sessions see it.
#[derive(Debug, Clone)]
pub(crate) struct TunnelOverlay(pub(crate) Tunnel);

impl Overlay for TunnelOverlay {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, Result<Box<dyn SessionStream>, String>> {
        async move {
            let opened = self.0.connect(to, CONNECT_WITHIN).await;
            let stream = opened.map_err(|error| error.to_string())?;
            Ok::<Box<dyn SessionStream>, _>(Box::new(stream))
        }
        .boxed()
    }

    fn connect_udp(&self, to: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Datagrams>, String>> {
        async move {
            let flow = self.0.connect_udp(to).await.map_err(|error| error.to_string())?;
            Ok::<Box<dyn Datagrams>, _>(Box::new(Flow(flow)))
        }
        .boxed()
    }
}

/// Datagrams to and from one place of the overlay.
struct Flow(UdpFlow);

impl Datagrams for Flow {
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        async move { self.0.send(data).await.map_err(io::Error::other) }.boxed()
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        async move { self.0.recv(buffer).await.map_err(io::Error::other) }.boxed()
    }
}
