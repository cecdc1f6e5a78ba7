//! Listening, TLS, and one task per connection of a client.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::accept::{AcceptLimits, AcceptLoop};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy_core::identity::IdentitySigner;
use blueprint_hub_proxy_core::pace::LeastRate;
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::{MAX_HEADER_BYTES, Trust};
use http::header::ALT_SVC;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::access_log::AccessLog;
use crate::body::{AnswerBody, ClientBody};
use crate::connector::Connector;
use crate::dial::{Dial, Io};
use crate::forward::{Care, Conversation, Forwarder};
use crate::forwards::{ForwardConfig, Forwards};
use crate::guarded::{Framing, Guarded, Times};
use crate::http3::{self, Http3};
use crate::jwks::{Jwks, JwksConfig};
use crate::keys::KeyStore;
use crate::ledger::Ledger;
use crate::metered::Metered;
use crate::metrics::{Cut, ProxyMetrics};
use crate::open::Seen;
use crate::operator::OperatorDoor;
use crate::patience::Patience;
use crate::pressure::Pressure;
use crate::progress::Progress;
use crate::sniff::{Prefixed, Protocol, sniff};
use crate::steady::Steady;
use crate::streams::Streams;
use crate::tls::{Accepted, TlsHandle, accept};
use crate::watch::Timers;

/// Streams that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 100;

/// Streams of one HTTP/2 connection that may be reset before they are looked at, and streams that may end
/// with an error of the client's: more end the connection (CVE-2023-44487, CVE-2025-8671).
const MAX_UNSEEN_RESETS: usize = 32;
const MAX_ERRORS: usize = 256;

/// HTTP/2 flow-control windows towards clients, in bytes: of one request, and of one connection.
const DOWNSTREAM_WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);

/// Most bytes buffered of one answer, and most bytes read ahead of one request.
const DOWNSTREAM_BUFFER: usize = 64 * 1024;

/// HTTP/2 pings: how often, and how long until an unanswered one ends the connection.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How the proxy listens and what it waits for.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// TCP address; port 0 lets the system choose. Without TLS where there is none, or where `tls_listen` has it.
    pub listen: SocketAddr,
    /// One more TCP address, always with TLS; `None` for none.
    pub tls_listen: Option<SocketAddr>,
    /// TLS with which clients are met; `None` for plain HTTP, on loopback or behind something that has it.
    pub tls: Option<TlsHandle>,
    /// Domain under which `s<service>.b<blueprint>.<domain>` names a service; empty to have none.
    pub domain: String,
    /// How many connections clients may have open.
    pub limits: AcceptLimits,
    /// How long a connection to a target may take to open. Default 3 s.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// How long the head of a request may take, from its first byte to its last; on a new connection from
    /// the accept on. Default 5 s.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request that is open. Default 75 s.
    pub idle_timeout: Duration,
    /// How fast the body of a request has to come while the service waits for it. Default 1 KiB/s over 30 s.
    pub least_rate: LeastRate,
    /// How long a client may leave what it asked for unread. Default 60 s.
    pub reader_timeout: Duration,
    /// Whether the hub is short of memory; whoever measures it keeps a clone.
    pub pressure: Pressure,
    /// What is used and refused; whoever reads it keeps a clone.
    pub ledger: Ledger,
    /// Which requests are written to the log.
    pub access_log: AccessLog,
    /// From where keys of OAuth issuers may be fetched; `None` for nowhere.
    pub jwks: Option<JwksConfig>,
    /// Where raw forwards listen; `None` for nowhere.
    pub forwards: Option<ForwardConfig>,
    /// Whether HTTP/3 is spoken on the UDP port of the same number; it takes TLS. Default off.
    pub http3: bool,
}

impl ProxyConfig {
    /// A configuration with the default limits, without TLS, without a domain and without issuers.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls_listen: None,
            tls: None,
            domain: String::new(),
            limits: AcceptLimits::default(),
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            least_rate: LeastRate::default(),
            reader_timeout: Duration::from_secs(60),
            pressure: Pressure::default(),
            ledger: Ledger::default(),
            access_log: AccessLog::default(),
            jwks: None,
            forwards: None,
            http3: false,
        }
    }
}

/// The auth proxy, bound and ready to run.
pub struct Proxy {
    accept: AcceptLoop,
    tls_accept: Option<AcceptLoop>,
    config: ProxyConfig,
    parts: ProxyParts,
    metrics: Arc<ProxyMetrics>,
    jwks: Option<Jwks>,
    forwards: Option<Forwards>,
    http3: Option<Http3>,
}

/// What the proxy works with and others keep. Swapping `trust` takes effect with the next request.
#[derive(Clone)]
pub struct ProxyParts {
    /// Opens connections to targets.
    pub dialer: Arc<dyn Dial>,
    /// Everything that is decided by.
    pub trust: Arc<ArcSwap<Trust>>,
    /// Keeps API keys.
    pub keys: Arc<dyn KeyStore>,
    /// Signs who calls, for services.
    pub signer: Arc<IdentitySigner>,
    /// What the operator may do here; `None` for nothing.
    pub operator: Option<OperatorDoor>,
}

impl std::fmt::Debug for ProxyParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyParts").field("signer", &self.signer).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Binds the socket and registers the metrics.
    ///
    /// # Errors
    ///
    /// Fails where the system does not let this process listen there.
    pub async fn bind(config: ProxyConfig, parts: ProxyParts, metrics: &Metrics) -> io::Result<Self> {
        let accept = AcceptLoop::bind("proxy client", config.listen, config.limits).await?;
        let accept = accept.exempting_loopback();
        let tls_accept = match config.tls_listen {
            Some(address) => {
                Some(AcceptLoop::bind("proxy client", address, config.limits).await?.exempting_loopback())
            }
            None => None,
        };
        let http3 = match &config.tls {
            Some(tls) if config.http3 => {
                let listen = tls_accept.as_ref().unwrap_or(&accept).local_addr()?;
                Some(Http3::bind(listen, &tls.shared_config().map_err(io::Error::other)?)?)
            }
            Some(_) | None => None,
        };
        let of_tls = tls_accept.as_ref().map(AcceptLoop::stats);
        let stats = [Some(accept.stats()), of_tls, http3.as_ref().map(Http3::stats)];
        let stats: Vec<_> = stats.into_iter().flatten().collect();
        config.ledger.follow(stats.clone());
        let jwks = config.jwks.clone().map(|config| Jwks::new(config, Arc::clone(&parts.trust), metrics));
        let proxy = Arc::new(ProxyMetrics::register(metrics, stats, config.ledger.clone()));
        let forwards = config.forwards.clone().map(|forwards| {
            let from = (Arc::clone(&parts.trust), Arc::clone(&parts.dialer));
            Forwards::new(&config, forwards, from, metrics, Arc::clone(&proxy))
        });
        Ok(Self { accept, tls_accept, config, parts, metrics: proxy, jwks, forwards, http3 })
    }

    /// The keys of OAuth issuers; `None` where none are fetched.
    #[must_use]
    pub fn jwks(&self) -> Option<Jwks> {
        self.jwks.clone()
    }

    /// The raw forwards; `None` where there are none.
    #[must_use]
    pub fn forwards(&self) -> Option<Forwards> {
        self.forwards.clone()
    }

    /// The address that clients reach, with the port that the system chose.
    ///
    /// # Errors
    ///
    /// Fails where the system cannot say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.accept.local_addr()
    }

    /// The address that has TLS, if one has.
    ///
    /// # Errors
    ///
    /// Fails where the system cannot say.
    pub fn tls_addr(&self) -> io::Result<Option<SocketAddr>> {
        match &self.tls_accept {
            Some(accept) => accept.local_addr().map(Some),
            None if self.config.tls.is_some() => self.local_addr().map(Some),
            None => Ok(None),
        }
    }

    /// Serves until `drain` of the spawner's supervisor; open requests then end in tasks of their own.
    ///
    /// # Errors
    ///
    /// Never; the type fits the supervisor's essential tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listening socket; accepted connections go on.
    pub async fn run(self, spawner: Spawner) -> Result<(), Infallible> {
        let connector = Connector::new(
            Arc::clone(&self.parts.dialer),
            self.config.connect_timeout,
            Arc::clone(&self.metrics),
        );
        let seen = Seen {
            metrics: Arc::clone(&self.metrics),
            ledger: self.config.ledger,
            access: self.config.access_log,
        };
        let forwarder = Forwarder::new(
            self.config.domain.clone(),
            &self.parts,
            connector,
            seen,
            self.jwks.clone(),
            &spawner,
        );
        if let Some(jwks) = self.jwks {
            spawner.spawn_base("proxy jwks", jwks.run(spawner.clone()));
        }
        if let Some(forwards) = self.forwards {
            spawner.spawn_base("proxy forwards", forwards.run(spawner.clone()));
        }
        let drain = spawner.stop().drain;
        let server = Server {
            forwarder: Arc::new(forwarder),
            metrics: self.metrics,
            tls: self.config.tls,
            handshake_timeout: self.config.handshake_timeout,
            times: Times { head: self.config.header_timeout, idle: self.config.idle_timeout },
            reader_timeout: self.config.reader_timeout,
            care: Care { least_rate: self.config.least_rate, pressure: self.config.pressure },
            drain: drain.clone(),
            alt_svc: self.http3.as_ref().and_then(Http3::advertisement),
        };
        if let Some(http3) = self.http3 {
            let shared = http3::Shared {
                forwarder: Arc::clone(&server.forwarder),
                metrics: Arc::clone(&server.metrics),
                handshake_timeout: server.handshake_timeout,
                header_timeout: server.times.head,
                idle_timeout: server.times.idle,
                reader_timeout: server.reader_timeout,
                care: server.care.clone(),
                drain: drain.clone(),
            };
            spawner.spawn_base("proxy http3 socket", http3.run(shared, spawner.clone()));
        }
        let serve = |server: Server| {
            let server = Arc::new(server);
            move |stream: TcpStream, peer: SocketAddr| Arc::clone(&server).serve(stream, peer.ip())
        };
        let Some(tls_accept) = self.tls_accept else {
            return self.accept.run(spawner, drain, serve(server)).await;
        };
        let plain = Server { tls: None, ..server.clone() };
        let plain = self.accept.run(spawner.clone(), drain.clone(), serve(plain));
        let tls = tls_accept.run(spawner, drain, serve(server));
        tokio::try_join!(plain, tls).map(drop)
    }
}

/// What every connection of a client needs.
#[derive(Clone)]
struct Server {
    forwarder: Arc<Forwarder>,
    metrics: Arc<ProxyMetrics>,
    tls: Option<TlsHandle>,
    handshake_timeout: Duration,
    times: Times,
    reader_timeout: Duration,
    care: Care,
    drain: CancellationToken,
    alt_svc: Option<HeaderValue>,
}

impl Server {
    /// One connection, from its first byte to its last.
    ///
    /// What a connection needs at one time only is behind a pointer: thousands of them idle at once.
    async fn serve(self: Arc<Self>, stream: TcpStream, source: IpAddr) {
        if self.care.pressure.refuses() {
            self.metrics.count_cut(Cut::Overloaded);
            return debug!(%source, "connection refused, the hub is short of memory");
        }
        if let Some(tls) = &self.tls {
            Box::pin(self.serve_tls(stream, source, tls)).await;
        } else {
            Box::pin(self.serve_http(stream, source, Channel::default())).await;
        }
    }

    async fn serve_tls(&self, stream: TcpStream, source: IpAddr, tls: &TlsHandle) {
        match timeout(self.handshake_timeout, Box::pin(accept(stream, tls))).await {
            Ok(Ok(Accepted::Client(stream, channel))) => {
                Box::pin(self.serve_http(stream, source, channel)).await;
            }
            Ok(Ok(Accepted::Challenge)) => debug!(%source, "acme challenge answered"),
            Ok(Err(error)) => {
                self.metrics.count_cut(Cut::Tls);
                debug!(%source, %error, "tls handshake failed");
            }
            Err(_) => {
                self.metrics.count_cut(Cut::Tls);
                debug!(%source, "tls handshake timed out");
            }
        }
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
            async move {
                let request = request.map(ClientBody::Stream);
                let answer = forwarder.answer(&conversation, number, request).await;
                Ok::<_, Infallible>(turn.hold(advertise(answer, alt_svc)))
            }
        });
        let mut builder = http1::Builder::new();
        // The library's time limit for heads counts the time between two requests as well; the guard's does not.
        builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(DOWNSTREAM_BUFFER);
        let times = (self.times, begun);
        let io = TokioIo::new(Guarded::new(io, framing, progress, times, Arc::clone(&self.metrics)));
        let connection = pin!(builder.serve_connection(io, service).with_upgrades());
        drive(connection, http1::UpgradeableConnection::graceful_shutdown, &self.drain).await
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
                let request = request.map(ClientBody::Stream);
                let answer = forwarder.answer(&conversation, 0, request).await;
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
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
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

/// Tells a client that HTTP/3 is spoken, too.
fn advertise(mut answer: Response<AnswerBody>, alt_svc: Option<HeaderValue>) -> Response<AnswerBody> {
    if let Some(alt_svc) = alt_svc {
        answer.headers_mut().insert(ALT_SVC, alt_svc);
    }
    answer
}

/// Runs a connection; from `drain` on it ends with the requests that are open on it.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    drain: &CancellationToken,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    if let Some(ended) = drain.run_until_cancelled(connection.as_mut()).await {
        return ended;
    }
    finish(connection.as_mut());
    connection.await
}
