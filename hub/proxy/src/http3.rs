//! HTTP/3: the same requests and decisions over QUIC.
//!
//! - One connection has 100 requests open at most; heads are bounded as in HTTP/2, and so is every frame that the
//!   library holds whole ([`guarded`]).
//! - Early data is refused, since a request in it could be one that somebody sends again.
//! - An answer that breaks off is a reset stream, never a shorter answer.

mod body;
mod guarded;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::{MAX_HEADER_BYTES, MAX_HEADERS};
use bytes::Bytes;
use h3::error::Code;
use h3::server::{RequestResolver, RequestStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::body::{AnswerBody, AnswerError, BoxError, ClientBody};
use crate::forward::{Care, Conversation, Forwarder};
use crate::forwards::places::{Place, Places};
use crate::metrics::{Cut, ProxyMetrics};
use crate::watch::Timers;

pub(crate) use body::Http3Body;

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
/// Connections: in all, and from one source.
const PLACES: (usize, usize) = (4096, 256);
/// Connections above which each has to prove its address with a Retry first.
const UNVALIDATED_MAX: usize = 1024;
/// Bytes of an answer of which a client has to take one such piece in time.
const PIECE: usize = 8 * 1024;
/// What a field of a head counts for beside its bytes (RFC 9114, section 4.2.2).
const FIELD_OVERHEAD: usize = 32;
/// How long clients may remember that HTTP/3 is spoken, in seconds.
const REMEMBER: u32 = 3600;

/// A UDP socket on which HTTP/3 is spoken.
#[derive(Debug)]
pub(crate) struct Http3 {
    endpoint: Endpoint,
    port: u16,
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) reader_timeout: Duration,
    pub(crate) care: Care,
    pub(crate) drain: CancellationToken,
}

impl Http3 {
    /// Binds a socket; `tls` is that of the other versions of HTTP.
    pub(crate) fn bind(listen: SocketAddr, tls: &rustls::ServerConfig) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on UDP {listen} for HTTP/3: {error}"))
        };
        let config = server_config(tls).map_err(io::Error::other)?;
        let socket = UdpSocket::bind(listen).map_err(named)?;
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
        let port = endpoint.local_addr()?.port();
        Ok(Self { endpoint, port })
    }

    /// Value of `Alt-Svc` that tells clients of it.
    pub(crate) fn advertisement(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("h3=\":{}\"; ma={REMEMBER}", self.port)).ok()
    }

    /// Accepts until the drain begins; connections then end with the requests that are open on them.
    pub(crate) async fn run(self, shared: Shared, spawner: Spawner) {
        let places = Places::new(PLACES.0, PLACES.1);
        while let Some(Some(incoming)) = shared.drain.run_until_cancelled(self.endpoint.accept()).await {
            let source = incoming.remote_address().ip().to_canonical();
            if shared.care.pressure.refuses() {
                shared.metrics.count_cut(Cut::Overloaded);
                incoming.ignore();
                continue;
            }
            if self.endpoint.open_connections() >= UNVALIDATED_MAX && incoming.may_retry() {
                // It fails only where no retry is possible, which was just asked.
                let _ = incoming.retry();
                continue;
            }
            match places.take(source) {
                Ok(place) => {
                    let serve = serve(shared.clone(), incoming, place, spawner.clone());
                    spawner.spawn("proxy http3", Box::pin(serve));
                }
                // No answer: a flood from forged addresses gets nothing reflected.
                Err(_) => incoming.ignore(),
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
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Serves one connection.
async fn serve(shared: Shared, incoming: Incoming, place: Place, spawner: Spawner) {
    let source = incoming.remote_address();
    let connection = match incoming.accept() {
        Ok(connecting) => timeout(shared.handshake_timeout, connecting).await,
        Err(error) => return debug!(%source, %error, "QUIC connection refused"),
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
    if let Err(error) = requests(&shared, connection, &spawner).await {
        debug!(%source, %error, "HTTP/3 connection ended");
    }
    drop(place);
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
    let head = MAX_HEADER_BYTES.saturating_add(MAX_HEADERS.saturating_mul(FIELD_OVERHEAD));
    let mut builder = h3::server::builder();
    builder.max_field_section_size(u64::try_from(head).unwrap_or(u64::MAX)).send_grease(false);
    let mut http = builder.build(guarded::Connection::new(connection.clone())).await?;
    let mut is_draining = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.drain.cancelled(), if !is_draining => None,
            accepted = http.accept() => Some(accepted),
        };
        match accepted {
            None => {
                is_draining = true;
                http.shutdown(0).await?;
            }
            Some(accepted) => {
                let Some(resolver) = accepted? else { return Ok(()) };
                let source = connection.remote_address().ip().to_canonical();
                let conversation = Conversation {
                    source,
                    channel: Channel::tls(None),
                    framing: None,
                    care: shared.care.clone(),
                    timers: Timers::default(),
                };
                let answered = answer(shared.clone(), conversation, resolver);
                let over = over.clone();
                spawner.spawn("proxy http3 request", async move { over.run_until_cancelled(answered).await });
            }
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
    let head = async {
        let (request, stream) = resolver.resolve_request().await?;
        let (send, recv) = stream.split();
        let send = Sending { stream: send, is_over: false };
        let mut body = Http3Body::new(recv, request.headers());
        body.look().await?;
        Ok::<_, BoxError>((request.map(|()| ClientBody::Http3(Box::new(body))), send))
    };
    let (mut request, mut send) = match timeout(shared.header_timeout, head).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => return debug!(%source, %error, "request over HTTP/3 is none"),
        Err(_) => {
            shared.metrics.count_cut(Cut::SlowHead);
            return debug!(%source, "head of a request over HTTP/3 took too long");
        }
    };
    *request.version_mut() = Version::HTTP_3;
    let is_head = request.method() == Method::HEAD;
    let answer = shared.forwarder.answer(&conversation, 0, request).await;
    if let Err(error) = send.send(answer, is_head, shared.reader_timeout).await {
        debug!(%source, %error, "answer over HTTP/3 broke off");
    }
}

/// The half of a stream that an answer leaves by; a stream that is dropped before its end is reset.
struct Sending {
    stream: RequestStream<h3_quinn::SendStream<Bytes>, Bytes>,
    is_over: bool,
}

impl Sending {
    async fn send(
        &mut self,
        answer: Response<AnswerBody>,
        is_head: bool,
        patience: Duration,
    ) -> Result<(), BoxError> {
        let (mut parts, mut body) = answer.into_parts();
        // Neither has a body (RFC 9110, section 6.4.1), whatever is in ours.
        let has_body = !is_head && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if let Some(length) = body.size_hint().exact().filter(|_| has_body) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.stream.send_response(Response::from_parts(parts, ())).await?;
        while has_body && let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(mut data) => {
                    while !data.is_empty() {
                        let piece = data.split_to(data.len().min(PIECE));
                        let Ok(sent) = timeout(patience, self.stream.send_data(piece)).await else {
                            body.note_slow_reader();
                            return Err(AnswerError::Unread.into());
                        };
                        sent?;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.send_trailers(trailers).await?;
                    }
                }
            }
        }
        self.stream.finish().await?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_over {
            self.stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
    }
}
