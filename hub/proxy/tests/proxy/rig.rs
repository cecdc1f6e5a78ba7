//! A proxy, a token that opens it, and services to stand behind it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::{Spawner, Supervisor};
use blueprint_common_tunnel::UdpError;
use blueprint_common_types::{AccessToken, AgentId, Health, Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy::{
    ApiKey, AssertionStore, Datagrams, Dial, DialError, Io, KeyStore, KeyStoreError, Proxy, ProxyConfig,
    ProxyParts, UsedAssertions,
};
use blueprint_hub_proxy_core::identity::{IdentitySigner, KeyGrant, KeyTable, SealingKey, UsedAssertion};
use blueprint_hub_proxy_core::{
    AccessGrant, AccessTable, RouteTable, Scope, Service, ServiceSettings, Target, Trust,
};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::server::conn;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio_util::sync::DropGuard;
use tracing::dispatcher::get_default;
use tracing::subscriber::NoSubscriber;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Longest that anything in these tests may take; reached only by a failing one.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

/// Connects over loopback instead of the tunnel.
struct Loopback;

impl Dial for Loopback {
    fn connect(&self, target: SocketAddr, _: Duration) -> BoxFuture<'_, Result<Box<dyn Io>, DialError>> {
        async move {
            let socket = TcpSocket::new_v4().map_err(DialError::Other)?;
            // Small, so that back-pressure shows early; not so small that loopback stalls.
            socket.set_send_buffer_size(96 << 10).map_err(DialError::Other)?;
            socket.set_recv_buffer_size(96 << 10).map_err(DialError::Other)?;
            let stream = socket.connect(target).await.map_err(|_| DialError::Refused)?;
            stream.set_nodelay(true).map_err(DialError::Other)?;
            let stream: Box<dyn Io> = Box::new(stream);
            Ok(stream)
        }
        .boxed()
    }

    fn connect_udp(&self, target: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Datagrams>, DialError>> {
        async move {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(DialError::Other)?;
            socket.connect(target).await.map_err(DialError::Other)?;
            let flow: Box<dyn Datagrams> = Box::new(LoopbackFlow(socket));
            Ok(flow)
        }
        .boxed()
    }
}

/// Datagrams over loopback, at most as long as a tunnel takes them.
struct LoopbackFlow(UdpSocket);

impl Datagrams for LoopbackFlow {
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<(), UdpError>> {
        async move {
            if data.len() > 1392 {
                return Err(UdpError::TooLong { bytes: data.len(), max: 1392 });
            }
            self.0.send(data).await.map(drop).map_err(|_| UdpError::Refused)
        }
        .boxed()
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<usize, UdpError>> {
        async move { self.0.recv(buffer).await.map_err(|_| UdpError::Refused) }.boxed()
    }
}

/// Keeps keys in the tables themselves.
struct Keys(Arc<ArcSwap<Trust>>);

impl KeyStore for Keys {
    fn create(&self, key: ApiKey) -> BoxFuture<'_, Result<(), KeyStoreError>> {
        let grant = KeyGrant {
            hash: key.hash,
            service: key.service,
            owner: key.owner.to_string(),
            headers: key.headers,
            expires_at: key.expires_at,
            is_revoked: false,
        };
        let mut trust = Trust::clone(&self.0.load());
        trust.keys = KeyTable::new([(key.id, grant)]);
        self.0.store(Arc::new(trust));
        async { Ok(()) }.boxed()
    }
}

/// Keeps used assertions in memory.
#[derive(Default)]
struct Uses(Mutex<BTreeSet<(ServiceKey, [u8; 32])>>);

impl AssertionStore for Uses {
    fn keep(&self, used: UsedAssertion, _: Timestamp) -> BoxFuture<'_, Result<bool, BoxError>> {
        let is_new = self.0.lock().insert((used.service, used.hash));
        async move { Ok(is_new) }.boxed()
    }
}

pub(crate) struct Rig {
    pub(crate) proxy: SocketAddr,
    /// The address that has TLS, if one has.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) token: AccessToken,
    pub(crate) metrics: Metrics,
    pub(crate) spawner: Spawner,
    pub(crate) supervisor: Supervisor,
    pub(crate) trust: Arc<ArcSwap<Trust>>,
    /// The proxy's threads end with the test, which may be one of many in its process.
    pub(crate) _end: DropGuard,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let supervisor = Supervisor::new();
        let metrics = Metrics::new();
        let seed = Secret::new([5; 32]);
        let sealing = Arc::new(SealingKey::new(&seed).unwrap());
        let trust = Arc::new(ArcSwap::from_pointee(Trust::empty(sealing)));
        let parts = ProxyParts {
            dialer: Arc::new(Loopback),
            trust: Arc::clone(&trust),
            keys: Arc::new(Keys(Arc::clone(&trust))),
            assertions: UsedAssertions::new(Arc::new(Uses::default()), []),
            signer: Arc::new(IdentitySigner::new(&seed, "hub").unwrap()),
            operator: None,
        };
        // Clients and services are not of the proxy's process.
        let spawner = Supervisor::new().child_spawner();
        let mut config = ProxyConfig::new((Ipv4Addr::LOCALHOST, 0).into());
        // A test's log is that of its own thread.
        let is_log_read = get_default(|dispatch| !dispatch.is::<NoSubscriber>());
        config.lanes = if is_log_read { 0 } else { 2 };
        change(&mut config);
        let proxy = Proxy::bind(config, parts, &metrics).await.unwrap();
        let address = proxy.local_addr().unwrap();
        let tls = proxy.tls_addr().unwrap();
        supervisor.spawn_essential("proxy", proxy.run(supervisor.child_spawner()));
        let token = AccessToken::random().unwrap();
        let end = supervisor.stop().stop.drop_guard();
        let rig = Self { proxy: address, tls, token, metrics, spawner, supervisor, trust, _end: end };
        rig.route(&[]);
        rig
    }

    /// Makes the targets of the service healthy ones at these addresses, and lets the token in.
    pub(crate) fn route(&self, addresses: &[SocketAddr]) {
        self.route_as(addresses, Health::Healthy, "");
    }

    pub(crate) fn route_as(&self, addresses: &[SocketAddr], health: Health, reason: &str) {
        let grant = AccessGrant {
            hash: self.token.hash(),
            label: "acme".to_owned(),
            scope: Scope::All,
            expires_at: None,
            is_revoked: false,
        };
        let targets = addresses.iter().zip(1..).map(|(address, node)| {
            let agent = AgentId::from_bytes([node; 16]);
            (SERVICE, Target { address: *address, health, reason: reason.to_owned(), agent, weight: 100 })
        });
        let routes = RouteTable::new([SERVICE], targets);
        let access = AccessTable::new([(self.token.id(), grant)]);
        let trust = Trust { access, routes, ..Trust::clone(&self.trust.load()) };
        self.trust.store(Arc::new(trust));
    }

    /// Gives the service settings.
    pub(crate) fn settle(&self, settings: ServiceSettings) {
        let mut trust = Trust::clone(&self.trust.load());
        trust.services.insert(SERVICE, Arc::new(Service::new(settings).unwrap()));
        self.trust.store(Arc::new(trust));
    }

    /// Takes the token back.
    pub(crate) fn revoke(&self) {
        let trust = Trust { access: AccessTable::default(), ..Trust::clone(&self.trust.load()) };
        self.trust.store(Arc::new(trust));
    }

    /// The two header lines that admit a request.
    pub(crate) fn admitted(&self) -> String {
        let token = self.token.expose_text();
        format!("Host: hub\r\nAuthorization: Bearer {}\r\nX-Service-Id: 7/42\r\n", token.expose())
    }

    /// A request that is admitted.
    pub(crate) fn request(&self, method: &str, target: &str, body: Body) -> Request<Body> {
        let token = self.token.expose_text();
        Request::builder()
            .method(method)
            .uri(target)
            .header("host", "hub")
            .header("authorization", format!("Bearer {}", token.expose()))
            .header("x-service-id", "7/42")
            .body(body)
            .unwrap()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(96 << 10).unwrap();
        socket.set_recv_buffer_size(96 << 10).unwrap();
        let stream = socket.connect(self.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends `text` as it is and reads until the proxy closes.
    pub(crate) async fn raw(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the proxy did not close");
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn http1(&self) -> http1::SendRequest<Body> {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = http1::handshake(io).await.unwrap();
        self.spawner.spawn("test client", connection);
        sender
    }

    pub(crate) async fn http2(&self) -> http2::SendRequest<Body> {
        let io = TokioIo::new(self.connect().await);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = http2::handshake(executor, io).await.unwrap();
        self.spawner.spawn("test client", connection);
        sender
    }

    /// Starts a service that answers with `answer`.
    pub(crate) fn service<F, Fut>(&self, answer: F) -> SocketAddr
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        self.raw_service(move |stream| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let builder = conn::http1::Builder::new();
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            }
        })
    }

    /// Starts a service that does what it likes with each connection.
    pub(crate) fn raw_service<F, Fut>(&self, serve: F) -> SocketAddr
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = small_listener();
        let address = listener.local_addr().unwrap();
        let spawner = self.spawner.clone();
        self.spawner.spawn("test service", async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawner.spawn("test service connection", serve(stream));
            }
        });
        address
    }

    /// Waits for what the proxy's threads count after a client has seen the end, and that it stays: nothing is counted twice.
    pub(crate) fn assert_metric(&self, line: &str) {
        let mut text = String::new();
        let mut is_there = || {
            text = self.metrics.encode();
            let is_there = text.lines().any(|found| found == line);
            std::thread::sleep(Duration::from_millis(10));
            is_there
        };
        let stays = (0..1000).any(|_| is_there()) && is_there();
        assert!(stays, "{line} is not in\n{text}");
    }
}

fn small_listener() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(96 << 10).unwrap();
    socket.set_send_buffer_size(96 << 10).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket.listen(64).unwrap()
}

/// An address where nothing listens.
pub(crate) async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

/// Answers with the request as text: method and target, then every header as `name: value`, then the body.
pub(crate) async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let body = body.collect().await.unwrap().to_bytes();
    text.push_str(&String::from_utf8_lossy(&body));
    Response::new(full(text))
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Reads the head of a request from a raw connection, and what came with it.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap() == 0 {
            break;
        }
    }
    head
}
