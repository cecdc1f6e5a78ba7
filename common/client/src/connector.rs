//! Connections for `tonic` and `hyper`.

use std::io;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::destination::Destination;
use crate::stream::Stream;
use crate::transport::{self, TransportType};

/// Opens a connection for each URL that it is asked for: with `connect_with_connector` of `tonic`, and with the client of
/// `hyper-util`. Over a tunnel the host of the URL says where that leads (see [`Destination`]); sockets lead to one place.
#[derive(Debug, Clone)]
pub struct Connector {
    transport: TransportType,
}

impl Connector {
    /// Connections over a transport.
    #[must_use]
    pub const fn new(transport: TransportType) -> Self {
        Self { transport }
    }

    /// A gRPC channel to `to`; it connects with the first call, and again where the connection broke.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where `to` cannot stand in a URL.
    pub fn channel(&self, to: &Destination) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
        Ok(endpoint.connect_with_connector_lazy(self.clone()))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let transport = self.transport.clone();
        async move {
            let stream = match &transport {
                // What a URL says of hosts is the client's own affair where there is one place only.
                TransportType::UnixSocket(path) => transport::unix(path).await?,
                TransportType::Vsock(context, port) => transport::virtual_machine(*context, *port).await?,
                TransportType::Tunnel(tunnel) => {
                    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
                    let to = Destination::try_from(&uri).map_err(invalid)?;
                    tunnel.open_to(&to).await?
                }
            };
            Ok(TokioIo::new(stream))
        }
        .boxed()
    }
}
