//! One handshake.

use std::io;
use std::sync::Arc;

use blueprint_hub_proxy_core::tls::{Bound, Channel, ClientCertificate};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::handle::TlsHandle;
use super::neighbour::Neighbour;
use super::table::Choice;
use crate::pressure::Pressure;

/// How a handshake ended well.
pub(crate) enum Accepted<I> {
    /// A client that may send requests.
    Client(Box<TlsStream<I>>, Channel),
    /// An ACME server that has seen what it came for.
    Challenge,
    /// It is a client's, and the hub is short of memory.
    Overloaded,
    /// It is a neighbour's, who goes on with it.
    Neighbour(Arc<dyn Neighbour>, Box<StartHandshake<I>>),
}

/// Shakes hands by the table as it is now.
///
/// # Errors
///
/// Those of the network and of TLS; the client has got an alert.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub(crate) async fn accept<I>(io: I, handle: &TlsHandle, pressure: &Pressure) -> io::Result<Accepted<I>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    let choice = {
        let hello = start.client_hello();
        if let Some(neighbour) = handle.neighbour(hello.server_name()) {
            return Ok(Accepted::Neighbour(neighbour, Box::new(start)));
        }
        // Agents come in all the same: without them nothing that is open goes on.
        if pressure.refuses() {
            return Ok(Accepted::Overloaded);
        }
        let protocols = hello.alpn().into_iter().flatten();
        handle.table().choose(hello.server_name(), protocols)
    };
    match choice {
        Choice::Serve(served) => {
            let stream = start.into_stream(Arc::clone(&served.config)).await?;
            let connection = stream.get_ref().1;
            handle.metrics().count_handshake(connection.protocol_version(), connection.handshake_kind());
            let shown = connection.peer_certificates().and_then(<[_]>::first);
            let bound = match served.bound {
                None => None,
                Some((service, authorities)) => {
                    let client = match shown {
                        None => None,
                        Some(shown) => Some(ClientCertificate::of_verified(shown).ok_or_else(|| {
                            io::Error::new(
                                io::ErrorKind::InvalidData,
                                "the client certificate cannot be read",
                            )
                        })?),
                    };
                    Some(Bound { service, authorities, client })
                }
            };
            Ok(Accepted::Client(Box::new(stream), Channel::tls(bound)))
        }
        Choice::Challenge(config) => {
            let mut stream = start.into_stream(config).await?;
            stream.shutdown().await?;
            Ok(Accepted::Challenge)
        }
        Choice::Refuse => Err(io::Error::new(io::ErrorKind::NotFound, "no certificate for this host name")),
    }
}
