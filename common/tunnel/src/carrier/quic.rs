//! A link over a QUIC connection: one WireGuard datagram in one QUIC datagram (RFC 9221).
//!
//! Both ends are made here: [`QuicServer`] on a socket that it shares with plain WireGuard, and
//! [`dial`] from a socket of its own. No streams are allowed in either direction. Who may connect is
//! decided by the caller's TLS configuration, which asks for certificates.

mod coalesce;
mod congestion;
mod drivers;
mod first;
mod link;
mod server;
mod shared_socket;
mod thread;
mod transport;

pub use link::QuicLink;
pub use server::{Handshake, QuicServer};
pub use shared_socket::{NeighbourSide, NeighbourSocket, SharedSocket};
pub(crate) use thread::LinkThread;
pub use transport::QuicLimits;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{AsyncUdpSocket, Endpoint, Runtime, UdpPoller, udp};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;

use super::ALPN;
use coalesce::Coalescing;
use drivers::Keeping;
use transport::RECEIVE_BYTES;

/// How long a handshake may take: two round trips, and a repeat of each, on a slow path.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Socket buffers asked for, like those of the plain UDP carrier.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Why there is no QUIC link.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The TLS configuration cannot be used with QUIC, which needs TLS 1.3 and AES-128-GCM.
    #[error("unusable tls configuration: {reason}")]
    Tls {
        /// What is wrong with it.
        reason: String,
    },
    /// The address or name cannot be connected to.
    #[error("cannot dial")]
    Dial(#[from] quinn::ConnectError),
    /// The handshake took longer than 5 s: usually UDP does not get through.
    #[error("handshake timed out")]
    TimedOut,
    /// The other end or the certificates put an end to it.
    #[error("handshake failed")]
    Handshake(#[from] quinn::ConnectionError),
    /// The other end takes no datagrams.
    #[error("the other end takes no datagrams")]
    NoDatagrams,
    /// The socket failed.
    #[error("socket failed")]
    Socket(#[from] io::Error),
}

/// Binds a socket for [`dial`] that can reach `remote`, with large buffers where allowed.
///
/// # Errors
///
/// Those of creating and binding a socket.
pub fn client_socket(remote: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&any.into())?;
    Ok(socket.into())
}

/// Connects to the hub at `remote`, whose certificate has to be good for `server_name`.
///
/// The client certificate is in `tls`, which should be made with
/// [`crypto_provider`](super::crypto_provider). The handshake runs on the current tokio runtime, the link on a thread of its own.
///
/// # Errors
///
/// See [`QuicError`]. A refused client certificate may show only later, as the end of the link: in
/// TLS 1.3 the client is done before the server has looked at it.
///
/// # Cancel safety
///
/// Dropping it gives the attempt up.
pub async fn dial(
    socket: UdpSocket,
    remote: SocketAddr,
    tls: &rustls::ClientConfig,
    server_name: &str,
    limits: &QuicLimits,
) -> Result<QuicLink, QuicError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls =
        QuicClientConfig::try_from(tls).map_err(|error| QuicError::Tls { reason: error.to_string() })?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport::config(limits)));
    let runtime = Keeping::start(1)?;
    let socket = ClientSocket { inner: runtime.wrap_udp_socket(socket)?, limits: limits.clone() };
    let socket = Coalescing::for_one(Arc::new(socket));
    let endpoint = Endpoint::new_with_abstract_socket(
        transport::endpoint(limits),
        None,
        Arc::<Coalescing>::clone(&socket),
        Arc::<Keeping>::clone(&runtime),
    )?;
    let connecting = endpoint.connect_with(config, remote, server_name);
    let mut drivers = runtime.take(&socket, remote);
    let connected = timeout(HANDSHAKE_MAX, connecting?);
    let connection = drivers.beside(|| None, connected).await.map_err(|_| QuicError::TimedOut)??;
    QuicLink::new(connection, drivers)
}

/// A socket of our own, as quinn drives it, with room for whole GRO bundles and no more.
#[derive(Debug)]
struct ClientSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    limits: QuicLimits,
}

impl AsyncUdpSocket for ClientSocket {
    fn create_io_poller(self: Arc<Self>) -> std::pin::Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &udp::Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut std::task::Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [udp::RecvMeta],
    ) -> std::task::Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        RECEIVE_BYTES.div_ceil(self.limits.receive_payload())
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
