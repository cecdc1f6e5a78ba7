//! The hub's end: accepts connections on a shared socket.
//!
//! What strangers can make it do is bounded, also where they forge addresses:
//!
//! - few handshakes of addresses that nobody has proved are under way at once; above that each costs a Retry, which
//!   holds nothing here and is no longer than what asked for it;
//! - with proved addresses there are more, still bounded; those above get no answer;
//! - each has 5 s; what is not looked at yet waits in bounded queues of bytes, and what finds no room is lost.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{AsyncUdpSocket, Connecting, Endpoint, Incoming, ServerConfig, VarInt};
use tokio::time::timeout;

use super::coalesce::Coalescing;
use super::drivers::{Drivers, Keeping};
use super::{HANDSHAKE_MAX, QuicError, QuicLimits, QuicLink, SharedSocket, transport};
use crate::carrier::ALPN;

/// Attempts that quinn holds before we have looked at them.
const INCOMING_MAX: usize = 1024;
/// Bytes that quinn holds for one attempt before we have looked at it: a handshake's first flight.
const INCOMING_BYTES: u64 = 64 << 10;
/// The same for all attempts.
const INCOMING_TOTAL_BYTES: u64 = 16 << 20;

/// Threads that links are spread over at most.
const THREADS_MAX: usize = 4;

/// Accepts links. Dropping it lets established ones go on.
#[derive(Debug)]
pub struct QuicServer {
    endpoint: Endpoint,
    /// Held from the start of a connection until what drives it is taken.
    runtime: Mutex<Arc<Keeping>>,
    sending: Arc<Coalescing>,
    socket: Arc<SharedSocket>,
    limits: QuicLimits,
    /// Each handshake under way holds a clone.
    handshakes: Arc<()>,
    retried: AtomicU64,
    ignored: AtomicU64,
    refused: AtomicU64,
}

impl QuicServer {
    /// Serves on `socket` those clients that `tls` lets in, with a thread of its own for each processor, four at most;
    /// each link stays on one.
    ///
    /// `tls` has to ask for client certificates; its ALPN is replaced by ours.
    ///
    /// # Errors
    ///
    /// [`QuicError::Tls`] for a configuration that QUIC cannot use, [`QuicError::Socket`].
    pub fn new(
        socket: Arc<SharedSocket>,
        tls: &rustls::ServerConfig,
        limits: QuicLimits,
    ) -> Result<Self, QuicError> {
        let config = server_config(tls, &limits)?;
        let mut endpoint = transport::endpoint(&limits);
        socket.name_links(&mut endpoint);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let runtime = Keeping::start(threads)?;
        let sending = Coalescing::for_many(Arc::<SharedSocket>::clone(&socket));
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint,
            Some(config),
            Arc::<Coalescing>::clone(&sending),
            Arc::<Keeping>::clone(&runtime),
        )?;
        let drivers = runtime.take(&sending, socket.local_addr()?);
        socket.read_on(drivers.thread());
        drivers.finish();
        Ok(Self {
            endpoint,
            runtime: Mutex::new(runtime),
            sending,
            socket,
            limits,
            handshakes: Arc::new(()),
            retried: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Uses another TLS configuration for those who connect from now on.
    ///
    /// # Errors
    ///
    /// [`QuicError::Tls`]; the old one then stays.
    pub fn reconfigure(&self, tls: &rustls::ServerConfig) -> Result<(), QuicError> {
        self.endpoint.set_server_config(Some(server_config(tls, &self.limits)?));
        Ok(())
    }

    /// The next client whose handshake may begin; `None` once the server is closed.
    ///
    /// The caller runs [`Handshake::finish`] in a task of its own, so that a slow one delays nobody.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub async fn accept(&self) -> Option<Handshake> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if let Some(handshake) = self.admit(incoming) {
                return Some(handshake);
            }
        }
    }

    /// Starts a handshake, or spends as little as possible on it.
    fn admit(&self, incoming: Incoming) -> Option<Handshake> {
        let under_way = self.under_way();
        if under_way >= self.limits.handshakes_max {
            // No answer: a flood from forged addresses gets nothing reflected.
            self.ignored.fetch_add(1, Ordering::Relaxed);
            incoming.ignore();
            return None;
        }
        if under_way >= self.limits.unvalidated_max && incoming.may_retry() {
            self.retried.fetch_add(1, Ordering::Relaxed);
            // It fails only where no retry is possible, which was just asked.
            let _ = incoming.retry();
            return None;
        }
        let remote = incoming.remote_address();
        let local = incoming.local_ip();
        let is_proved = incoming.remote_address_validated();
        let runtime = self.runtime.lock();
        let accepted = incoming.accept();
        let drivers = runtime.take(&self.sending, remote);
        // The first is where the socket is read: alone, a link has no other thread to wait for.
        runtime.go_round();
        drop(runtime);
        let Ok(connecting) = accepted else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Handshake {
            connecting,
            drivers,
            remote,
            local,
            is_proved,
            _under_way: Arc::clone(&self.handshakes),
        })
    }

    /// Handshakes that are under way now.
    pub fn under_way(&self) -> usize {
        Arc::strong_count(&self.handshakes) - 1
    }

    /// Connections that take memory now: handshakes under way, links, and what is being closed.
    pub fn open(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Datagrams for QUIC that were lost because too many waited, since the start.
    pub fn lost(&self) -> u64 {
        self.socket.dropped()
    }

    /// How many clients had to prove their address first, since the start.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// How many attempts were ignored because too many were under way, since the start.
    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// How many attempts were refused for their first packet, such as another protocol's name, since
    /// the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends every link and takes no more.
    pub fn close(&self) {
        self.endpoint.close(VarInt::from(0_u8), b"");
    }
}

fn server_config(tls: &rustls::ServerConfig, limits: &QuicLimits) -> Result<ServerConfig, QuicError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // A datagram that came with 0-RTT could be one that somebody sends again.
    tls.max_early_data_size = 0;
    // A resumed session is not verified again, and would outlive a certificate that was revoked.
    tls.send_tls13_tickets = 0;
    let tls =
        QuicServerConfig::try_from(tls).map_err(|error| QuicError::Tls { reason: error.to_string() })?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport::config(limits)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES);
    Ok(config)
}

/// A client that is about to prove who it is.
#[derive(Debug)]
pub struct Handshake {
    connecting: Connecting,
    drivers: Drivers,
    remote: SocketAddr,
    local: Option<IpAddr>,
    is_proved: bool,
    _under_way: Arc<()>,
}

impl Handshake {
    /// Where the client is.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote.ip().to_canonical(), self.remote.port())
    }

    /// Whether the client has shown that it receives what is sent to [`Self::remote`]; else anybody may have named it.
    pub const fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// The address of ours that it uses, where known.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local.map(|ip| ip.to_canonical())
    }

    /// Completes the handshake, for which 5 s are given.
    ///
    /// # Errors
    ///
    /// [`QuicError::TimedOut`], [`QuicError::Handshake`] where the client is not let in, and
    /// [`QuicError::NoDatagrams`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the connection.
    pub async fn finish(self) -> Result<QuicLink, QuicError> {
        let Self { connecting, mut drivers, .. } = self;
        let connected = timeout(HANDSHAKE_MAX, connecting);
        let connection = drivers.beside(|| None, connected).await.map_err(|_| QuicError::TimedOut)??;
        QuicLink::new(connection, drivers)
    }
}
