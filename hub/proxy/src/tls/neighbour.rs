//! Who else is spoken to where the proxy has TLS: told apart by the host name that a client asks for.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

/// Somebody who shares the proxy's TLS address.
pub trait Neighbour: Send + Sync + 'static {
    /// Goes on with a handshake of which the first message was read, and serves the connection to its end.
    ///
    /// It bounds the time of the handshake itself. The connection keeps its place among those of the proxy.
    fn serve(&self, start: StartHandshake<TcpStream>, source: SocketAddr) -> BoxFuture<'static, ()>;
}

/// A neighbour and the host name that is its own.
#[derive(Clone)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) neighbour: Arc<dyn Neighbour>,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Named").field("name", &self.name).finish_non_exhaustive()
    }
}
