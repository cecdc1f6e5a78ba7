//! One connection of a client: TLS, which protocol it speaks, and its requests.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_runtime::{Chain, lanes};
use blueprint_hub_proxy_core::tls::Channel;
use http::header::ALT_SVC;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_rustls::StartHandshake;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::body::{AnswerBody, ClientBody};
use crate::dial::Io;
use crate::forward::{Care, Conversation, Forwarder};
use crate::guarded::{Framing, Guarded, Times};
use crate::metered::Metered;
use crate::metrics::{Cut, ProxyMetrics};
use crate::patience::Patience;
use crate::progress::Progress;
use crate::rarely::Rarely;
use crate::sniff::{Prefixed, Protocol, sniff};
use crate::steady::Steady;
use crate::streams::Streams;
use crate::tls::{Accepted, Neighbour, TlsHandle, accept};
use crate::watch::Timers;

type BoxError = Box<dyn Error + Send + Sync>;

/// Streams that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 100;

/// Streams of one HTTP/2 connection that may be reset before they are looked at, and streams that may end
/// with an error of the client's: more end the connection (CVE-2023-44487, CVE-2025-8671).
const MAX_UNSEEN_RESETS: usize = 32;
const MAX_ERRORS: usize = 256;

/// Longest head that the HTTP/2 library reads, by its own count (RFC 9113, section 6.5.2): four times what is taken, so
/// that a head that is too long gets an answer of ours, which says so and is counted. The library's says nothing.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// First words of TLS that are read at once while the hub is short of memory, since they may be an agent's, and how long
/// one may take.
pub(super) const SHORT_HELLOS: usize = 64;
const SHORT_HELLO_TIME: Duration = Duration::from_secs(1);

/// HTTP/2 flow-control windows towards clients, in bytes: of one request, and of one connection.
const DOWNSTREAM_WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);

/// Most bytes buffered of one answer, and most bytes read ahead of one request.
const DOWNSTREAM_BUFFER: usize = 64 * 1024;

/// HTTP/2 pings: how often, and how long until an unanswered one ends the connection.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// What every connection of a client needs.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) metrics: Arc<ProxyMetrics>,
    pub(super) tls: Option<TlsHandle>,
    pub(super) handshake_timeout: Duration,
    pub(super) times: Times,
    pub(super) reader_timeout: Duration,
    pub(super) care: Care,
    pub(super) drain: CancellationToken,
    pub(super) alt_svc: Option<HeaderValue>,
    /// [`SHORT_HELLOS`] of them.
    pub(super) short_hellos: Arc<Semaphore>,
    /// For neighbours, whose connections are work for long at a time.
    pub(super) spawner: Spawner,
    pub(super) workers: Handle,
}

impl Server {
    /// One connection, from its first byte to its last.
    ///
    /// What a connection needs at one time only is behind a pointer: thousands of them idle at once.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let source = peer.ip();
        if let Some(tls) = &self.tls {
            Box::pin(self.serve_tls(stream, peer, tls)).await;
        } else if self.care.pressure.refuses() {
            self.refuse(source);
        } else {
            Box::pin(self.serve_http(stream, source, Channel::default())).await;
        }
    }

    fn refuse(&self, source: IpAddr) {
        self.metrics.count_cut(Cut::Overloaded);
        debug!(%source, "connection refused, the hub is short of memory");
    }

    async fn serve_tls(&self, stream: TcpStream, peer: SocketAddr, tls: &TlsHandle) {
        let source = peer.ip();
        let is_short = self.care.pressure.refuses();
        let turn = is_short.then(|| self.short_hellos.try_acquire()).transpose();
        let Ok(turn) = turn else { return self.refuse(source) };
        let time = if is_short { SHORT_HELLO_TIME } else { self.handshake_timeout };
        let accepted = timeout(time, Box::pin(accept(stream, tls, &self.care.pressure))).await;
        drop(turn);
        match accepted {
            Ok(Ok(Accepted::Client(stream, channel))) => {
                Box::pin(self.serve_http(stream, source, channel)).await;
            }
            Ok(Ok(Accepted::Overloaded)) => self.refuse(source),
            Ok(Ok(Accepted::Neighbour(neighbour, start))) => self.hand_over(&*neighbour, *start, peer).await,
            Ok(Ok(Accepted::Challenge)) => debug!(%source, "acme challenge answered"),
            Ok(Err(error)) => {
                self.metrics.count_cut(Cut::Tls);
                debug!(%source, %error, "tls handshake failed");
            }
            Err(_) if is_short => self.refuse(source),
            Err(_) => {
                self.metrics.count_cut(Cut::Tls);
                debug!(%source, "tls handshake timed out");
            }
        }
    }

    /// Gives a connection to the workers of the runtime, and waits for its end: no request of a client is to wait for it.
    async fn hand_over(&self, neighbour: &dyn Neighbour, start: StartHandshake<TcpStream>, peer: SocketAddr) {
        let _away = lanes::away();
        let (ends, ended) = oneshot::channel::<()>();
        {
            let StartHandshake { accepted, io, .. } = start;
            let io = io.into_std();
            let _entered = self.workers.enter();
            let io = match io.and_then(TcpStream::from_std) {
                Ok(io) => io,
                Err(error) => {
                    self.metrics.count_cut(Cut::Tls);
                    return debug!(source = %peer.ip(), %error, "connection cannot be given to another thread");
                }
            };
            let served = neighbour.serve(StartHandshake::from_parts(accepted, io), peer);
            self.spawner.spawn("proxy neighbour", async move {
                let _ends = ends;
                served.await;
            });
        }
        // Nobody sends anything: it is dropped.
        let _ = ended.await;
    }

    /// Waits for the first bytes; `None` where none come.
    async fn begin<I: Io>(&self, io: I, source: IpAddr) -> Option<(Protocol, Prefixed<Steady<I>>)> {
        let io = Steady::new(io, self.reader_timeout, Arc::clone(&self.metrics));
        match self.drain.run_until_cancelled(timeout(self.times.head, sniff(io))).await? {
            Ok(Ok(sniffed)) => return Some(sniffed),
            Ok(Err(error)) => debug!(%source, %error, "client left without a request"),
            Err(_) => {
                self.metrics.count_cut(Cut::Silent);
                debug!(%source, "client sent nothing");
            }
        }
        None
    }

    async fn serve_http(&self, io: impl Io + 'static, source: IpAddr, channel: Channel) {
        let begun = Instant::now();
        let Some((protocol, io)) = Box::pin(self.begin(io, source)).await else { return };
        let served = match protocol {
            Protocol::Http1 => Box::pin(self.serve_http1(io, (source, channel), begun)).await,
            Protocol::Http2 => Box::pin(self.serve_http2(io, source, channel)).await,
        };
        if let Err(error) = served {
            debug!(%source, error = %Chain(&error), "connection of a client ended");
        }
    }

    /// What tells of HTTP/3, which has TLS and no client certificates.
    fn alt_svc_on(&self, channel: &Channel) -> Option<HeaderValue> {
        self.alt_svc.clone().filter(|_| channel.is_tls() && !channel.is_bound())
    }

    async fn serve_http1<I: Io + 'static>(
        &self,
        io: Prefixed<I>,
        (source, channel): (IpAddr, Channel),
        begun: Instant,
    ) -> hyper::Result<()> {
        let (framing, progress) = (Framing::default(), Progress::new());
        let alt_svc = self.alt_svc_on(&channel);
        let conversation = Arc::new(Conversation {
            source,
            channel,
            framing: Some(framing.clone()),
            care: self.care.clone(),
            timers: Timers::default(),
        });
        let turns = progress.clone();
        let (forwarder, requests) = (Arc::clone(&self.forwarder), Arc::new(AtomicU64::new(0)));
        let service = service_fn(move |request: Request<Incoming>| {
            let (forwarder, conversation) = (Arc::clone(&forwarder), Arc::clone(&conversation));
            // One after the other on a connection of HTTP/1, so their order is their number.
            let number = requests.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let (turn, alt_svc) = (turns.begin(), alt_svc.clone());
            // At once, while nobody reads on: the library would have to do that into another buffer.
            let begun = forwarder.begin(&conversation, number, request.map(ClientBody::Stream));
            async move {
                let answer = forwarder.finish(&conversation, begun).await;
                Ok::<_, Infallible>(turn.hold(advertise(answer, alt_svc)))
            }
        });
        let mut builder = http1::Builder::new();
        // The library's time limit for heads counts the time between two requests as well; the guard's does not.
        builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(DOWNSTREAM_BUFFER);
        let times = (self.times, begun);
        let mut io = Guarded::new(io, framing.clone(), progress, times, Arc::clone(&self.metrics));
        let mut service = service;
        loop {
            let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
            let Some(parts) = until_quiet(Box::new(connection), &framing, &self.drain).await? else {
                return Ok(());
            };
            (io, service) = (parts.io.into_inner(), parts.service);
            io.rest(&parts.read_buf);
            if self.drain.run_until_cancelled(io.next()).await != Some(true) {
                // The client may be gone already.
                let _ = io.shutdown().await;
                return Ok(());
            }
        }
    }

    async fn serve_http2<I: Io + 'static>(
        &self,
        io: Prefixed<I>,
        source: IpAddr,
        channel: Channel,
    ) -> hyper::Result<()> {
        let alt_svc = self.alt_svc_on(&channel);
        let (care, timers) = (self.care.clone(), Timers::default());
        let conversation = Arc::new(Conversation { source, channel, framing: None, care, timers });
        let forwarder = Arc::clone(&self.forwarder);
        let progress = Progress::new();
        let turns = progress.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (forwarder, conversation) = (Arc::clone(&forwarder), Arc::clone(&conversation));
            let (turn, alt_svc) = (turns.begin(), alt_svc.clone());
            async move {
                let is_head = request.method() == Method::HEAD;
                let request = request.map(ClientBody::Stream);
                let answer = forwarder.answer(&conversation, request).await;
                let answer = if is_head { without_words(answer) } else { answer };
                Ok::<_, Infallible>(turn.track(advertise(answer, alt_svc)))
            }
        });
        let streams = Streams::default();
        let mut builder = http2::Builder::new(streams.clone());
        builder
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
            .max_local_error_reset_streams(MAX_ERRORS)
            .initial_stream_window_size(DOWNSTREAM_WINDOWS.0)
            .initial_connection_window_size(DOWNSTREAM_WINDOWS.1)
            .max_send_buf_size(DOWNSTREAM_BUFFER)
            .max_header_list_size(MAX_HEADER_LIST)
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        let io = Metered::new(io, self.times.head, Arc::clone(&self.metrics));
        let connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let patience = Patience { idle: self.times.idle, reader: self.reader_timeout };
        patience
            .drive((connection, streams), http2::Connection::graceful_shutdown, &progress, &self.drain)
            .await
    }
}

/// An answer to HEAD, in which our own words have no place; unlike that of HTTP/1, the library would send them.
fn without_words(answer: Response<AnswerBody>) -> Response<AnswerBody> {
    answer.map(|body| match body {
        AnswerBody::Own(_) => AnswerBody::Own(Full::default()),
        AnswerBody::Stream(_) => body,
    })
}

/// Tells a client that HTTP/3 is spoken, too.
fn advertise(mut answer: Response<AnswerBody>, alt_svc: Option<HeaderValue>) -> Response<AnswerBody> {
    if let Some(alt_svc) = alt_svc {
        answer.headers_mut().insert(ALT_SVC, alt_svc);
    }
    answer
}

/// Runs a connection to its end, or until it idles: then it is given back. From `drain` on it ends with the request
/// that is open on it.
async fn until_quiet<I, B, S>(
    mut connection: Box<http1::UpgradeableConnection<I, S>>,
    framing: &Framing,
    drain: &CancellationToken,
) -> hyper::Result<Option<http1::Parts<I, S>>>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: Read + Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    http1::UpgradeableConnection<I, S>: Future<Output = hyper::Result<()>> + Unpin,
{
    let mut drained = Rarely::new(drain.cancelled());
    let quiet = poll_fn(|cx| {
        if Pin::new(&mut drained).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(Some(ended))),
            Poll::Pending if framing.is_quiet() => Poll::Ready(Some(None)),
            Poll::Pending => Poll::Pending,
        }
    });
    match quiet.await {
        Some(Some(ended)) => ended.map(|()| None),
        Some(None) => Ok(connection.into_parts()),
        None => {
            Pin::new(&mut *connection).graceful_shutdown();
            connection.await.map(|()| None)
        }
    }
}
