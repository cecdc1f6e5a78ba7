//! One handshake.

use std::io;
use std::sync::Arc;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::tls::{Bound, Channel, ClientCertificate};
use rustls::ServerConnection;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::handle::TlsHandle;
use super::neighbour::Neighbour;
use super::table::{Choice, Served};
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
            let channel = shown(stream.get_ref().1, &served, handle)?;
            Ok(Accepted::Client(Box::new(stream), channel))
        }
        Choice::Challenge(config) => {
            let mut stream = start.into_stream(config).await?;
            stream.shutdown().await?;
            Ok(Accepted::Challenge)
        }
        Choice::Refuse => Err(io::Error::new(io::ErrorKind::NotFound, "no certificate for this host name")),
    }
}

/// What clients of PostgreSQL want to have agreed on where they speak TLS from the first byte.
const POSTGRESQL: &[u8] = b"postgresql";

/// Shakes hands for a raw forward of this service, by its TLS profile as it is now. No protocol is agreed on but
/// [`POSTGRESQL`] where that is offered.
///
/// # Errors
///
/// Those of the network and of TLS; not found where the service has no profile.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub(crate) async fn accept_for<I>(
    io: I,
    handle: &TlsHandle,
    service: ServiceKey,
) -> io::Result<(Box<TlsStream<I>>, Channel)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let served = handle.table().of_service(service);
    let served =
        served.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the service has no TLS profile"))?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    let mut config = Arc::clone(&served.config);
    if start.client_hello().alpn().into_iter().flatten().any(|protocol| protocol == POSTGRESQL) {
        Arc::make_mut(&mut config).alpn_protocols = vec![POSTGRESQL.to_vec()];
    }
    let stream = start.into_stream(config).await?;
    let channel = shown(stream.get_ref().1, &served, handle)?;
    Ok((Box::new(stream), channel))
}

/// What a handshake has shown, counted.
fn shown(connection: &ServerConnection, served: &Served, handle: &TlsHandle) -> io::Result<Channel> {
    handle.metrics().count_handshake(connection.protocol_version(), connection.handshake_kind());
    let Some((service, authorities)) = served.bound else { return Ok(Channel::tls(None)) };
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the client certificate cannot be read");
    let client = match connection.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(shown) => Some(ClientCertificate::of_verified(shown).ok_or_else(unreadable)?),
    };
    Ok(Channel::tls(Some(Bound { service, authorities, client })))
}
