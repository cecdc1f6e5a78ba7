//! HTTP/3: the same requests and decisions over QUIC.
//!
//! - One connection has 100 requests open at most; heads are bounded as in HTTP/2, and so is every frame that the
//!   library holds whole ([`guarded`]).
//! - Early data is refused, since a request in it could be one that somebody sends again.
//! - An answer that breaks off is a reset stream, never a shorter answer.
//! - A connection on which nothing is open ends after the same time as in the other versions, however often its client
//!   pings; from the drain on it ends with its last request.
//! - Nothing waits for a client without an end: what is sent to it, its head, its piece or its trailers, has its time.

mod answer;
mod body;
mod guarded;
mod shared;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::accept::{AcceptLimits, AcceptStats, Place, Places};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::carrier::NeighbourSocket;
use blueprint_hub_proxy_core::is_grpc;
use blueprint_hub_proxy_core::tls::Channel;
use bytes::Bytes;
use futures_util::FutureExt;
use h3::server::RequestResolver;
use http::{HeaderValue, Method, Request, Version};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::body::{BoxError, ClientBody};
use crate::forward::{Care, Conversation, Forwarder};
use crate::metrics::{Cut, ProxyMetrics};
use crate::progress::Progress;
use crate::watch::Timers;

use answer::Sending;
pub(crate) use body::Http3Body;
pub use shared::Http3Socket;
pub(crate) use shared::register_shared;

/// Requests that one connection may have open.
const MAX_STREAMS: u8 = 100;
/// One-way streams of a client: control, two of the header compression, and some that are to be ignored.
const MAX_ONE_WAY: u8 = 8;
/// Flow-control windows, in bytes: of one request, and of one connection.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// Bytes of answers under way on one connection.
const SEND_WINDOW: u64 = 1024 * 1024;
/// Pings, so that a silent answer may take its time, and how long until a client that answers none is gone.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));
/// Connections that may be open.
const PLACES: AcceptLimits = AcceptLimits { total: 4096, per_ip: 256 };
/// Handshakes under way above which each client has to prove its address with a Retry first.
const UNPROVED_MAX: usize = 64;
/// What waits before it was looked at: attempts, and bytes of one and of all.
const WAITING: (usize, u64, u64) = (1024, 64 * 1024, 16 * 1024 * 1024);
/// How long nothing more may have left, beside two round trips, before what was sent last counts as sent.
const QUIET: Duration = Duration::from_millis(500);
/// Longest head that the library reads, by its own count (RFC 9114, section 4.2.2): more than is taken, so that a head
/// that is too long gets an answer of ours. The guard ends a connection whose head is longer still.
const MAX_HEADER_LIST: u64 = 64 * 1024;
/// How long clients may remember that HTTP/3 is spoken, in seconds.
const REMEMBER: u32 = 3600;

/// A UDP socket on which HTTP/3 is spoken.
#[derive(Debug)]
pub(crate) struct Http3 {
    endpoint: Endpoint,
    port: u16,
    places: Places,
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) reader_timeout: Duration,
    pub(crate) care: Care,
    pub(crate) drain: CancellationToken,
}

impl Http3 {
    /// Binds a socket, or shares one; `tls` is that of the other versions of HTTP. `None` where nobody wants it.
    pub(crate) fn open(
        socket: &Http3Socket,
        listen: SocketAddr,
        tls: &rustls::ServerConfig,
    ) -> io::Result<Option<Self>> {
        match socket {
            Http3Socket::Off => Ok(None),
            Http3Socket::Own => Self::bind(listen, tls).map(Some),
            Http3Socket::Shared(shared) => Self::share(shared, tls).map(Some),
        }
    }

    fn share(socket: &Arc<NeighbourSocket>, tls: &rustls::ServerConfig) -> io::Result<Self> {
        let config = server_config(tls).map_err(io::Error::other)?;
        Self::on(socket.endpoint(config)?)
    }

    fn bind(listen: SocketAddr, tls: &rustls::ServerConfig) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on UDP {listen} for HTTP/3: {error}"))
        };
        let config = server_config(tls).map_err(io::Error::other)?;
        let socket = UdpSocket::bind(listen).map_err(named)?;
        Self::on(Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?)
    }

    fn on(endpoint: Endpoint) -> io::Result<Self> {
        let port = endpoint.local_addr()?.port();
        Ok(Self { endpoint, port, places: Places::new(PLACES) })
    }

    /// Value of `Alt-Svc` that tells clients of it.
    pub(crate) fn advertisement(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("h3=\":{}\"; ma={REMEMBER}", self.port)).ok()
    }

    /// Counts of its connections.
    pub(crate) fn stats(&self) -> Arc<AcceptStats> {
        self.places.stats()
    }

    /// Accepts until the drain begins; connections then end with the requests that are open on them.
    pub(crate) async fn run(self, shared: Shared, spawner: Spawner) {
        // Each handshake under way holds a clone.
        let handshakes = Arc::new(());
        while let Some(Some(incoming)) = shared.drain.run_until_cancelled(self.endpoint.accept()).await {
            let source = incoming.remote_address().ip().to_canonical();
            if shared.care.pressure.refuses() {
                shared.metrics.count_cut(Cut::Overloaded);
                incoming.ignore();
                continue;
            }
            if Arc::strong_count(&handshakes) > UNPROVED_MAX && incoming.may_retry() {
                // It fails only where no retry is possible, which was just asked.
                let _ = incoming.retry();
                continue;
            }
            // Whoever names the address of somebody else would take the places of that: an address that is not proved
            // takes one at the end of its handshake, which proves it. Those before that end are few.
            let place = incoming.remote_address_validated().then(|| self.places.take(source)).transpose();
            match place {
                Ok(place) => {
                    let admitted =
                        Admitted { place, places: self.places.clone(), handshake: Arc::clone(&handshakes) };
                    let serve = serve(shared.clone(), incoming, admitted, spawner.clone());
                    spawner.spawn("proxy http3", Box::pin(serve));
                }
                // No answer: a flood from forged addresses gets nothing reflected. It is counted all the same.
                Err(none) => {
                    debug!(%source, reason = %none, "QUIC connection refused");
                    incoming.ignore();
                }
            }
        }
        let idle = self.endpoint.wait_idle();
        idle.await;
    }
}

/// The same certificates as on TCP, and nothing that could be sent again.
fn server_config(
    tls: &rustls::ServerConfig,
) -> Result<ServerConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.max_early_data_size = 0;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from(MAX_ONE_WAY))
        .stream_receive_window(VarInt::from(WINDOWS.0))
        .receive_window(VarInt::from(WINDOWS.1))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEPALIVE.0))
        .max_idle_timeout(KEEPALIVE.1.try_into().ok());
    config
        .transport_config(Arc::new(transport))
        .max_incoming(WAITING.0)
        .incoming_buffer_size(WAITING.1)
        .incoming_buffer_size_total(WAITING.2);
    Ok(config)
}

/// A client whose handshake may begin.
struct Admitted {
    /// `None` before its address is proved.
    place: Option<Place>,
    places: Places,
    handshake: Arc<()>,
}

/// Serves one connection.
async fn serve(shared: Shared, incoming: Incoming, admitted: Admitted, spawner: Spawner) {
    let Admitted { place, places, handshake } = admitted;
    let source = incoming.remote_address();
    let connection = match incoming.accept() {
        Ok(connecting) => timeout(shared.handshake_timeout, connecting).await,
        Err(error) => {
            shared.metrics.count_cut(Cut::Tls);
            return debug!(%source, %error, "QUIC connection refused");
        }
    };
    let connection = match connection {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            shared.metrics.count_cut(Cut::Tls);
            return debug!(%source, %error, "QUIC handshake failed");
        }
        Err(_) => {
            shared.metrics.count_cut(Cut::Tls);
            return debug!(%source, "QUIC handshake timed out");
        }
    };
    drop(handshake);
    let place = match place {
        Some(place) => Ok(place),
        None => places.take(source.ip()),
    };
    let _place = match place {
        Ok(place) => place,
        // Dropping the connection closes it.
        Err(none) => return debug!(%source, reason = %none, "HTTP/3 connection refused"),
    };
    if let Err(error) = requests(&shared, connection, &spawner).await {
        debug!(%source, %error, "HTTP/3 connection ended");
    }
}

/// Takes the requests of one connection, each in a task of its own.
async fn requests(
    shared: &Shared,
    connection: quinn::Connection,
    spawner: &Spawner,
) -> Result<(), h3::error::ConnectionError> {
    // What is open ends with the connection.
    let over = CancellationToken::new();
    let _guard = over.clone().drop_guard();
    let mut builder = h3::server::builder();
    builder.max_field_section_size(MAX_HEADER_LIST).send_grease(false);
    let built = builder.build(guarded::Connection::new(connection.clone()));
    // It sends our settings, for which a client may give no room.
    let Ok(http) = timeout(shared.handshake_timeout, built).await else {
        shared.metrics.count_cut(Cut::SlowReader);
        return Ok(());
    };
    let mut http = http?;
    let progress = Progress::new();
    let mut is_leaving = false;
    loop {
        let idle = if is_leaving { Duration::ZERO } else { shared.idle_timeout };
        let accepted = tokio::select! {
            biased;
            () = shared.drain.cancelled(), if !is_leaving => None,
            accepted = http.accept() => Some(accepted?),
            () = progress.idled(idle) => None,
        };
        match accepted {
            Some(Some(resolver)) => {
                let conversation = Conversation {
                    source: connection.remote_address().ip().to_canonical(),
                    channel: Channel::tls(None),
                    framing: None,
                    care: shared.care.clone(),
                    timers: Timers::default(),
                };
                let (answered, turn) = (answer(shared.clone(), conversation, resolver), progress.begin());
                let over = over.clone();
                spawner.spawn("proxy http3 request", async move {
                    over.run_until_cancelled(answered).await;
                    drop(turn);
                });
            }
            None if !is_leaving => {
                is_leaving = true;
                // A client that has no room for it learns of the end by the end.
                if let Ok(told) = timeout(QUIET, http.shutdown(0)).await {
                    told?;
                }
            }
            // The client leaves, or nothing is open any more.
            Some(None) | None => {
                let _ = timeout(shared.reader_timeout, quiet(&connection)).await;
                return Ok(());
            }
        }
    }
}

/// Resolves once nothing of an answer leaves any more: it is with its client, or the client does not take it.
///
/// Closing a connection throws away what has not left yet, and the library does not tell what has arrived.
async fn quiet(connection: &quinn::Connection) {
    let sent = || connection.stats().frame_tx.stream;
    loop {
        let before = sent();
        let pause = QUIET.saturating_add(connection.rtt().saturating_mul(2));
        if timeout(pause, connection.closed()).await.is_ok() || sent() == before {
            return;
        }
    }
}

/// Answers one request.
async fn answer(
    shared: Shared,
    conversation: Conversation,
    resolver: RequestResolver<guarded::Connection, Bytes>,
) {
    let source = conversation.source;
    let (request, stream) = match timeout(shared.header_timeout, resolver.resolve_request()).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => return debug!(%source, %error, "request over HTTP/3 is none"),
        Err(_) => {
            shared.metrics.count_cut(Cut::SlowHead);
            return debug!(%source, "head of a request over HTTP/3 took too long");
        }
    };
    let (send, recv) = stream.split();
    let mut send = Sending::new(send, shared.reader_timeout, Arc::clone(&shared.metrics));
    let mut body = Http3Body::new(recv, request.headers());
    if let Err(error) = look(&mut body, &request, shared.header_timeout).await {
        return debug!(%source, %error, "request over HTTP/3 broke off");
    }
    let mut request = request.map(|()| ClientBody::Http3(Box::new(body)));
    *request.version_mut() = Version::HTTP_3;
    let is_head = request.method() == Method::HEAD;
    let answer = shared.forwarder.answer(&conversation, request).await;
    if let Err(error) = send.send(answer, is_head).await {
        debug!(%source, %error, "answer over HTTP/3 broke off");
    }
}

/// Finds out whether there is a body where the head does not say.
///
/// The library does not tell whether a stream ended with the head. Methods that seldom have a body are worth a wait, at
/// most for as long as a head may take; all others, which may be conversations that begin with silence, only a glance.
async fn look(body: &mut Http3Body, request: &Request<()>, wait: Duration) -> Result<(), BoxError> {
    let has_none = matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    if has_none && !is_grpc(request.headers()) {
        return timeout(wait, body.look()).await.unwrap_or(Ok(()));
    }
    body.look().now_or_never().unwrap_or(Ok(()))
}
