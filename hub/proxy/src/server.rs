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
use blueprint_hub_proxy_core::{MAX_HEADER_BYTES, MAX_HEADERS, Trust};
use http::header::ALT_SVC;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::body::{AnswerBody, ClientBody};
use crate::connector::Connector;
use crate::dial::{Dial, Io};
use crate::executor::Executor;
use crate::forward::{Conversation, Forwarder};
use crate::forwards::{ForwardConfig, Forwards};
use crate::guarded::{Framing, Guarded};
use crate::http3::{self, Http3};
use crate::jwks::{Jwks, JwksConfig};
use crate::keys::KeyStore;
use crate::metrics::{Cut, ProxyMetrics};
use crate::sniff::{Prefixed, Protocol, sniff};

/// Streams that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 100;

/// HTTP/2 flow-control windows towards clients, in bytes: of one request, and of one connection.
const DOWNSTREAM_WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);

/// Most bytes buffered of one answer, and most bytes read ahead of one request.
const DOWNSTREAM_BUFFER: usize = 64 * 1024;

/// HTTP/2 pings: how often, and how long until an unanswered one ends the connection.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How the proxy listens and what it waits for.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// TCP address; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// TLS with which clients are met; `None` for plain HTTP, on loopback or behind something that has it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Domain under which `s<service>.b<blueprint>.<domain>` names a service; empty to have none.
    pub domain: String,
    /// How many connections clients may have open.
    pub limits: AcceptLimits,
    /// How long a connection to a target may take to open. Default 3 s.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// How long the head of a request may take, and how long an HTTP/1 connection may idle before the
    /// next one. Default 20 s.
    pub header_timeout: Duration,
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
            tls: None,
            domain: String::new(),
            limits: AcceptLimits::default(),
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(20),
            jwks: None,
            forwards: None,
            http3: false,
        }
    }
}

/// The auth proxy, bound and ready to run.
pub struct Proxy {
    accept: AcceptLoop,
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
        let http3 = match &config.tls {
            Some(tls) if config.http3 => Some(Http3::bind(accept.local_addr()?, tls)?),
            Some(_) | None => None,
        };
        let jwks = config.jwks.clone().map(|config| Jwks::new(config, Arc::clone(&parts.trust), metrics));
        let forwards = config.forwards.clone().map(|forwards| {
            let (trust, dialer) = (Arc::clone(&parts.trust), Arc::clone(&parts.dialer));
            Forwards::new(forwards, trust, dialer, config.connect_timeout, metrics)
        });
        let proxy_metrics = Arc::new(ProxyMetrics::register(metrics));
        Ok(Self { accept, config, parts, metrics: proxy_metrics, jwks, forwards, http3 })
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
        let connector = Connector::new(Arc::clone(&self.parts.dialer), self.config.connect_timeout);
        let forwarder = Forwarder::new(
            self.config.domain.clone(),
            &self.parts,
            connector,
            Arc::clone(&self.metrics),
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
            tls: self.config.tls.map(TlsAcceptor::from),
            handshake_timeout: self.config.handshake_timeout,
            header_timeout: self.config.header_timeout,
            executor: Executor::new("proxy stream", spawner.clone()),
            drain: drain.clone(),
            alt_svc: self.http3.as_ref().and_then(Http3::advertisement),
        };
        if let Some(http3) = self.http3 {
            let shared = http3::Shared {
                forwarder: Arc::clone(&server.forwarder),
                metrics: Arc::clone(&server.metrics),
                handshake_timeout: server.handshake_timeout,
                header_timeout: server.header_timeout,
                drain: drain.clone(),
            };
            spawner.spawn_base("proxy http3 socket", http3.run(shared, spawner.clone()));
        }
        self.accept.run(spawner, drain, |stream, peer| server.clone().serve(stream, peer.ip())).await
    }
}

/// What every connection of a client needs.
#[derive(Clone)]
struct Server {
    forwarder: Arc<Forwarder>,
    metrics: Arc<ProxyMetrics>,
    tls: Option<TlsAcceptor>,
    handshake_timeout: Duration,
    header_timeout: Duration,
    executor: Executor,
    drain: CancellationToken,
    alt_svc: Option<HeaderValue>,
}

impl Server {
    async fn serve(self, stream: TcpStream, source: IpAddr) {
        let Some(acceptor) = self.tls.clone() else {
            return self.serve_http(stream, source, false).await;
        };
        match timeout(self.handshake_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(stream, source, true).await,
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

    async fn serve_http(self, io: impl Io + 'static, source: IpAddr, tls: bool) {
        let sniffed = self.drain.run_until_cancelled(timeout(self.header_timeout, sniff(io))).await;
        let (protocol, io) = match sniffed {
            Some(Ok(Ok(sniffed))) => sniffed,
            Some(Ok(Err(error))) => return debug!(%source, %error, "client left without a request"),
            Some(Err(_)) => {
                self.metrics.count_cut(Cut::Silent);
                return debug!(%source, "client sent nothing");
            }
            None => return,
        };
        let served = match protocol {
            Protocol::Http1 => self.serve_http1(io, source, tls).await,
            Protocol::Http2 => self.serve_http2(io, source, tls).await,
        };
        if let Err(error) = served {
            if error.is_timeout() {
                self.metrics.count_cut(Cut::SlowHead);
            }
            debug!(%source, error = %Chain(&error), "connection of a client ended");
        }
    }

    async fn serve_http1<I: Io + 'static>(
        &self,
        io: Prefixed<I>,
        source: IpAddr,
        tls: bool,
    ) -> hyper::Result<()> {
        let framing = Framing::default();
        let conversation = Conversation { source, tls, framing: Some(framing.clone()) };
        let (forwarder, requests) = (Arc::clone(&self.forwarder), Arc::new(AtomicU64::new(0)));
        let alt_svc = self.alt_svc.clone().filter(|_| tls);
        let service = service_fn(move |request: Request<Incoming>| {
            let (forwarder, conversation) = (Arc::clone(&forwarder), conversation.clone());
            // One after the other on a connection of HTTP/1, so their order is their number.
            let number = requests.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let alt_svc = alt_svc.clone();
            async move {
                let request = request.map(ClientBody::Stream);
                let answer = forwarder.answer(&conversation, number, request).await;
                Ok::<_, Infallible>(advertise(answer, alt_svc))
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(DOWNSTREAM_BUFFER);
        let io = TokioIo::new(Guarded::new(io, framing));
        let connection = builder.serve_connection(io, service).with_upgrades();
        drive(connection, http1::UpgradeableConnection::graceful_shutdown, &self.drain).await
    }

    async fn serve_http2<I: Io + 'static>(
        &self,
        io: Prefixed<I>,
        source: IpAddr,
        tls: bool,
    ) -> hyper::Result<()> {
        let conversation = Conversation { source, tls, framing: None };
        let forwarder = Arc::clone(&self.forwarder);
        let alt_svc = self.alt_svc.clone().filter(|_| tls);
        let service = service_fn(move |request: Request<Incoming>| {
            let (forwarder, conversation) = (Arc::clone(&forwarder), conversation.clone());
            let alt_svc = alt_svc.clone();
            async move {
                let request = request.map(ClientBody::Stream);
                let answer = forwarder.answer(&conversation, 0, request).await;
                Ok::<_, Infallible>(advertise(answer, alt_svc))
            }
        });
        let mut builder = http2::Builder::new(self.executor.clone());
        builder
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(DOWNSTREAM_WINDOWS.0)
            .initial_connection_window_size(DOWNSTREAM_WINDOWS.1)
            .max_send_buf_size(DOWNSTREAM_BUFFER)
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        let connection = builder.serve_connection(TokioIo::new(io), service);
        drive(connection, http2::Connection::graceful_shutdown, &self.drain).await
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
async fn drive<C>(connection: C, finish: fn(Pin<&mut C>), drain: &CancellationToken) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    if let Some(ended) = drain.run_until_cancelled(connection.as_mut()).await {
        return ended;
    }
    finish(connection.as_mut());
    connection.await
}
