//! HTTP/3 over real sockets: the same decisions, streams both ways, and what a hostile client gets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_hub_proxy::tls::{Material, TlsHandle};
use blueprint_hub_proxy::{Http3Socket, Ledger, ProxyConfig};
use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3_quinn::{BidiStream, OpenStreams};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{LONG, Rig, mirror, read_head};

/// What makes a good request a bad one.
type Change = fn(&mut Request<()>);

type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

/// A proxy that speaks HTTP/3, and the certificate that it shows.
struct Bench {
    rig: Rig,
    authority: CertificateDer<'static>,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let made = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let shown = Material::from_der(vec![made.cert.der().clone()], key).unwrap();
        let tls = TlsHandle::new(Some(shown), &Metrics::new()).unwrap();
        let rig = Rig::with(|proxy| {
            proxy.tls = Some(tls);
            proxy.http3 = Http3Socket::Own;
            proxy.header_timeout = Duration::from_secs(1);
            change(proxy);
        })
        .await;
        Self { rig, authority: made.cert.der().clone() }
    }

    fn tls(&self, alpn: &[u8]) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls
    }

    async fn quic(&self) -> quinn::Connection {
        self.quic_with(&mut TransportConfig::default()).await
    }

    async fn quic_with(&self, transport: &mut TransportConfig) -> quinn::Connection {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = QuicClientConfig::try_from(self.tls(b"h3")).unwrap();
        let mut config = ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(std::mem::take(transport)));
        endpoint.connect_with(config, self.rig.proxy, "hub.example").unwrap().await.unwrap()
    }

    async fn client(&self) -> SendRequest<OpenStreams, Bytes> {
        self.client_on(self.quic().await).await
    }

    async fn client_on(&self, connection: quinn::Connection) -> SendRequest<OpenStreams, Bytes> {
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
        self.rig.spawner.spawn("test client", async move { driver.wait_idle().await });
        sender
    }

    /// A request that is admitted.
    fn request(&self, method: &str, path: &str) -> Request<()> {
        let mut request = self.rig.request(method, &format!("https://hub{path}"), crate::rig::empty());
        request.headers_mut().remove("host");
        request.map(drop)
    }
}

async fn body(stream: &mut Stream) -> Result<Vec<u8>, h3::error::StreamError> {
    let mut all = Vec::new();
    while let Some(mut data) = timeout(LONG, stream.recv_data()).await.unwrap()? {
        all.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(all)
}

async fn get(client: &mut SendRequest<OpenStreams, Bytes>, request: Request<()>) -> (Response<()>, Stream) {
    let mut stream = client.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let response = timeout(LONG, stream.recv_response()).await.unwrap().unwrap();
    (response, stream)
}

#[tokio::test]
async fn a_request_over_http3_is_decided_about_like_any_other() {
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.service(mirror)]);
    let mut client = bench.client().await;
    let mut request = bench.request("GET", "/a/../b?c=1");
    request.headers_mut().insert("x-tenant-id", "forged".parse().unwrap());
    let (response, mut stream) = get(&mut client, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = String::from_utf8(body(&mut stream).await.unwrap()).unwrap();
    assert_eq!(response.headers().get("content-length").unwrap(), &text.len().to_string());
    assert!(text.starts_with("GET /b?c=1\n"), "{text}");
    for line in ["x-tenant-name: acme\n", "x-forwarded-proto: https\n", "x-forwarded-for: 127.0.0.1\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("forged") && !text.contains("authorization"), "{text}");
    assert!(!text.contains("transfer-encoding"), "it has no body: {text}");

    let cases: [(Change, u16); 6] = [
        (|it| drop(it.headers_mut().remove("authorization")), 401),
        (|it| *it.method_mut() = http::Method::CONNECT, 405),
        (|it| *it.uri_mut() = "https://hub/a%00b".parse().unwrap(), 400),
        (|it| drop(it.headers_mut().insert("x-service-id", "7/43".parse().unwrap())), 404),
        (|it| drop(it.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap())), 400),
        (|it| drop(it.headers_mut().insert("x-long", "x".repeat(30_000).parse().unwrap())), 431),
    ];
    for (change, status) in cases {
        let mut request = bench.request("GET", "/");
        change(&mut request);
        if request.method() == http::Method::CONNECT {
            *request.uri_mut() = "hub:443".parse().unwrap();
        }
        let (response, _) = get(&mut client, request).await;
        assert_eq!(response.status().as_u16(), status);
    }
    for reason in ["missing_token", "headers_too_large"] {
        bench.rig.assert_metric(&format!("hub_proxy_requests_refused_total{{reason=\"{reason}\"}} 1"));
    }

    // An answer to HEAD has no body, also where it is a refusal.
    for (is_admitted, status) in [(true, 200), (false, 401)] {
        let mut request = bench.request("HEAD", "/");
        if !is_admitted {
            request.headers_mut().remove("authorization");
        }
        let (response, mut stream) = get(&mut client, request).await;
        assert_eq!(response.status().as_u16(), status);
        assert!(body(&mut stream).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn bodies_are_streamed_in_both_directions() {
    let bench = Bench::new().await;
    // Sends every part of the request back as it comes.
    bench.rig.route(&[bench.rig.service(|request: Request<hyper::body::Incoming>| async move {
        let parts = StreamBody::new(http_body_util::BodyDataStream::new(request.into_body()).map_frames());
        Response::new(parts.boxed_unsync())
    })]);
    let mut client = bench.client().await;
    let mut stream = client.send_request(bench.request("POST", "/")).await.unwrap();
    let mut got = 0;
    for round in 0..20u8 {
        let part = Bytes::from(vec![round; 50_000]);
        stream.send_data(part.clone()).await.unwrap();
        if round == 0 {
            assert_eq!(stream.recv_response().await.unwrap().status(), StatusCode::OK);
        }
        let mut back = 0;
        while back < part.len() {
            let data = timeout(LONG, stream.recv_data()).await.unwrap().unwrap().unwrap();
            back += data.remaining();
        }
        got += back;
    }
    stream.finish().await.unwrap();
    assert!(body(&mut stream).await.unwrap().is_empty());
    assert_eq!(got, 1_000_000);
}

/// Bytes of a body as frames.
trait MapFrames: Sized {
    fn map_frames(
        self,
    ) -> futures_util::stream::BoxStream<'static, Result<http_body::Frame<Bytes>, crate::rig::BoxError>>;
}

impl<S> MapFrames for S
where
    S: futures_util::Stream<Item = Result<Bytes, hyper::Error>> + Send + 'static,
{
    fn map_frames(
        self,
    ) -> futures_util::stream::BoxStream<'static, Result<http_body::Frame<Bytes>, crate::rig::BoxError>> {
        use futures_util::StreamExt;
        self.map(|part| part.map(http_body::Frame::data).map_err(Into::into)).boxed()
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_the_service_down() {
    let bench = Bench::new().await;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    bench.rig.route(&[bench.rig.raw_service(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n").await.unwrap();
            while stream.write_all(&[7; 16_384]).await.is_ok() {
                counted.fetch_add(16_384, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })]);
    let mut client = bench.client().await;
    let (response, mut stream) = get(&mut client, bench.request("GET", "/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    sleep(Duration::from_millis(800)).await;
    let before = sent.load(std::sync::atomic::Ordering::SeqCst);
    assert!(before < 8 << 20, "{before} bytes were read for a client that reads none");
    let mut got = 0;
    while got < 30 << 20 {
        got += timeout(LONG, stream.recv_data()).await.unwrap().unwrap().unwrap().remaining();
    }
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_cut_in_time_and_frees_the_service() {
    let bench = Bench::with(|proxy| proxy.reader_timeout = Duration::from_secs(1)).await;
    let (told, freed) = tokio::sync::mpsc::channel(1);
    bench.rig.route(&[bench.rig.raw_service(move |mut stream| {
        let told = told.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n").await.unwrap();
            while stream.write_all(&[7; 16_384]).await.is_ok() {}
            told.send(()).await.unwrap();
        }
    })]);
    let mut freed = freed;
    let mut client = bench.client().await;
    let (_, stream) = get(&mut client, bench.request("GET", "/")).await;
    timeout(LONG, freed.recv()).await.unwrap().unwrap();
    let metrics = bench.rig.metrics.encode();
    assert!(metrics.contains("hub_proxy_connections_cut_total{reason=\"slow_reader\"} 1"), "{metrics}");
    drop(stream);
}

#[tokio::test]
async fn heads_and_trailers_that_are_not_read_are_cut_in_time_too() {
    let bench = Bench::with(|proxy| {
        proxy.reader_timeout = Duration::from_secs(1);
        proxy.handshake_timeout = Duration::from_secs(1);
    })
    .await;
    let answers = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: {}\r\n\r\n", "x".repeat(2000)),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Long: {}\r\n\r\n",
            "x".repeat(2000)
        ),
    ];
    for (cuts, answer) in answers.into_iter().enumerate() {
        let target = bench.rig.raw_service(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read(&mut [0; 8]).await;
            }
        });
        bench.rig.route(&[target]);
        // Room for settings, and for a head that is short.
        let mut narrow = TransportConfig::default();
        narrow.stream_receive_window(500u32.into());
        let mut client = bench.client_on(bench.quic_with(&mut narrow).await).await;
        let mut stream = client.send_request(bench.request("GET", "/")).await.unwrap();
        stream.finish().await.unwrap();
        let counted = format!("hub_proxy_connections_cut_total{{reason=\"slow_reader\"}} {}", cuts + 1);
        let cut = async {
            while !bench.rig.metrics.encode().contains(&counted) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, cut).await.expect("an answer that nobody reads is not cut");
        bench.rig.assert_metric("hub_proxy_requests_open 0");
    }
    // Not even our settings are taken.
    let mut closed = TransportConfig::default();
    closed.stream_receive_window(0u32.into());
    let connection = bench.quic_with(&mut closed).await;
    timeout(LONG, connection.closed()).await.expect("a client that takes nothing is not cut");
    bench.rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_reader\"} 3");
}

#[tokio::test]
async fn a_revocation_cuts_an_answer_and_a_break_is_no_end() {
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 8]).await;
    })]);
    let mut client = bench.client().await;
    let (_, mut stream) = get(&mut client, bench.request("GET", "/")).await;
    assert_eq!(stream.recv_data().await.unwrap().unwrap().chunk(), b"hi");
    let begun = Instant::now();
    bench.rig.revoke();
    assert!(body(&mut stream).await.is_err(), "a reset, not an end");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    bench.rig.assert_metric("hub_proxy_requests_revoked_total 1");

    bench.rig.route(&[bench.rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhi").await.unwrap();
    })]);
    let mut stream = client.send_request(bench.request("GET", "/")).await.unwrap();
    stream.finish().await.unwrap();
    // A reset may overtake what came before it.
    let is_broken = stream.recv_response().await.is_err() || body(&mut stream).await.is_err();
    assert!(is_broken, "it is shorter than it said");
}

#[tokio::test]
async fn lengths_that_lie_break_the_request() {
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.service(mirror)]);
    let mut client = bench.client().await;
    for (said, sent, is_good) in [("5", "hello", true), ("5", "hell", false), ("5", "hello!", false)] {
        let mut request = bench.request("POST", "/");
        request.headers_mut().insert("content-length", said.parse().unwrap());
        let mut stream = client.send_request(request).await.unwrap();
        stream.send_data(Bytes::from_static(sent.as_bytes())).await.unwrap();
        stream.finish().await.unwrap();
        let response = timeout(LONG, stream.recv_response()).await.unwrap();
        let is_answered = response.is_ok_and(|response| response.status() == StatusCode::OK);
        assert_eq!(is_answered, is_good, "{said} {sent}");
    }
}

#[tokio::test]
async fn frames_that_would_fill_the_memory_are_not_read() {
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.service(mirror)]);
    // HEADERS of 1 GiB, something unknown of 1 GiB, and a stream of WebTransport.
    for head in [&[1u8, 0xc0, 0, 0, 0, 0x40, 0, 0, 0][..], &[0x21, 0x80, 0xff, 0xff, 0xff], &[0x40, 0x41, 0]]
    {
        let connection = bench.quic().await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(head).await.unwrap();
        let flood = async {
            let mut sent = 0;
            while sent < 64 << 20 && send.write_all(&[7; 65_536]).await.is_ok() {
                sent += 65_536;
            }
            sent
        };
        let sent = timeout(LONG, flood).await.unwrap();
        assert!(sent < 4 << 20, "{sent} bytes of {head:?} were taken");
        let _ = recv.stop(0u8.into());
    }
    // The same on the control stream.
    let connection = bench.quic().await;
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0, 0x21, 0x80, 0xff, 0xff, 0xff]).await.unwrap();
    let closed = timeout(LONG, connection.closed()).await;
    assert!(closed.is_ok(), "the connection is of no use");
    // A head that never comes.
    let connection = bench.quic().await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 0x40]).await.unwrap();
    let end = timeout(Duration::from_secs(5), recv.read(&mut [0; 8])).await.unwrap();
    assert!(end.is_err() || end.is_ok_and(|got| got.is_none()), "it is cut after a second");
    let mut client = bench.client().await;
    let (response, _) = get(&mut client, bench.request("GET", "/")).await;
    assert_eq!(response.status(), StatusCode::OK, "others are served");
}

#[tokio::test]
async fn answers_over_tcp_say_that_http3_is_spoken() {
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.service(mirror)]);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(bench.tls(b"http/1.1")));
    let address: SocketAddr = bench.rig.proxy;
    let name = "hub.example".try_into().unwrap();
    let mut stream = connector.connect(name, bench.rig.connect().await).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\n{}Connection: close\r\n\r\n", bench.rig.admitted());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap();
    let expected = format!("alt-svc: h3=\":{}\"; ma=3600\r\n", address.port());
    assert!(answer.contains(&expected), "{answer}");
}

/// A client that pings more often than any limit of these tests.
fn restless() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(50)));
    transport
}

#[tokio::test]
async fn a_connection_without_a_request_ends_however_often_its_client_pings() {
    let bench = Bench::with(|proxy| proxy.idle_timeout = Duration::from_secs(1)).await;
    let (answer, wait) = tokio::sync::mpsc::channel::<()>(1);
    let wait = Arc::new(tokio::sync::Mutex::new(wait));
    bench.rig.route(&[bench.rig.service(move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.lock().await.recv().await;
            Response::new(crate::rig::full("late"))
        }
    })]);
    let connection = bench.quic_with(&mut restless()).await;
    let mut client = bench.client_on(connection.clone()).await;
    let mut stream = client.send_request(bench.request("GET", "/")).await.unwrap();
    stream.finish().await.unwrap();
    let idled = timeout(Duration::from_secs(3), connection.closed()).await;
    assert!(idled.is_err(), "a request that waits is open: {idled:?}");
    answer.send(()).await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), StatusCode::OK);
    assert_eq!(body(&mut stream).await.unwrap(), b"late");
    let begun = Instant::now();
    timeout(LONG, connection.closed()).await.expect("an idle connection is not ended");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_drain_ends_a_connection_with_its_last_request_and_not_later() {
    let bench = Bench::new().await;
    const BYTES: usize = 900_000;
    let (answer, wait) = tokio::sync::mpsc::channel::<()>(1);
    let wait = Arc::new(tokio::sync::Mutex::new(wait));
    bench.rig.route(&[bench.rig.service(move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.lock().await.recv().await;
            Response::new(crate::rig::full(vec![7; BYTES]))
        }
    })]);
    let (idle, busy) = (bench.quic_with(&mut restless()).await, bench.quic_with(&mut restless()).await);
    let _open = bench.client_on(idle.clone()).await;
    let mut client = bench.client_on(busy.clone()).await;
    let mut stream = client.send_request(bench.request("GET", "/")).await.unwrap();
    stream.finish().await.unwrap();
    let open = async {
        while !bench.rig.metrics.encode().contains("hub_proxy_requests_open 1") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, open).await.unwrap();
    bench.rig.supervisor.shutdown();
    let ended = async {
        timeout(Duration::from_secs(5), idle.closed()).await.expect("an idle connection holds up the end");
        assert!(busy.close_reason().is_none(), "a request is open on it");
        answer.send(()).await.unwrap();
        assert_eq!(timeout(LONG, stream.recv_response()).await.unwrap().unwrap().status(), StatusCode::OK);
        assert_eq!(body(&mut stream).await.unwrap().len(), BYTES, "all of it, also what was sent last");
    };
    let begun = Instant::now();
    let (stopped, ()) = tokio::join!(bench.rig.supervisor.run(LONG), ended);
    stopped.unwrap();
    assert!(begun.elapsed() < LONG / 2, "the grace was used up: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_conversation_may_begin_with_silence_and_a_service_that_speaks_first() {
    // A head has one second here.
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await
            .unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"0\r\n\r\n") {
            assert!(stream.read_buf(&mut got).await.unwrap() > 0, "{}", String::from_utf8_lossy(&got));
        }
        let said = if got.windows(4).any(|part| part == b"said") { "said" } else { "none" };
        stream.write_all(format!("4\r\n{said}\r\n0\r\n\r\n").as_bytes()).await.unwrap();
    })]);
    for method in ["POST", "GET"] {
        let mut client = bench.client().await;
        let mut stream = client.send_request(bench.request(method, "/")).await.unwrap();
        let answer = timeout(LONG, stream.recv_response()).await.unwrap();
        assert_eq!(answer.expect("silence is no fault").status(), StatusCode::OK, "{method}");
        let mut first = timeout(LONG, stream.recv_data()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.copy_to_bytes(first.remaining()), "first");
        sleep(Duration::from_millis(1500)).await;
        stream.send_data(Bytes::from_static(b"said")).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(body(&mut stream).await.unwrap(), b"said", "{method}");
    }
    bench.rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_head\"} 0");
}

#[tokio::test]
async fn a_silent_grpc_call_over_http3_is_passed_on_at_once() {
    let bench = Bench::new().await;
    bench.rig.route(&[bench.rig.raw_service(|stream| async move {
        let service = hyper::service::service_fn(|_: Request<hyper::body::Incoming>| async {
            Ok::<_, std::convert::Infallible>(
                Response::builder()
                    .header("content-type", "application/grpc")
                    .body(crate::rig::empty())
                    .unwrap(),
            )
        });
        let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
    })]);
    let mut client = bench.client().await;
    let mut request = bench.request("POST", "/a.B/c");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let begun = Instant::now();
    let mut stream = client.send_request(request).await.unwrap();
    let answer = timeout(LONG, stream.recv_response()).await.unwrap().expect("silence is no fault");
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_over_quic_are_counted_and_bounded_by_source() {
    let ledger = Ledger::default();
    let bench = Bench::with(|proxy| proxy.ledger = ledger.clone()).await;
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(bench.tls(b"h3")).unwrap()));
    config.transport_config(Arc::new(restless()));
    let connect = || endpoint.connect_with(config.clone(), bench.rig.proxy, "hub.example").unwrap();
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(timeout(LONG, connect()).await.unwrap().unwrap());
    }
    let counted = async {
        while !bench.rig.metrics.encode().contains("hub_proxy_connections_open 256\n") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, counted).await.expect("connections over QUIC are not counted");
    assert_eq!(ledger.clients().connections, 256);
    // Its handshake ends before its address counts as proved.
    let refused = timeout(LONG, connect()).await.unwrap();
    if let Ok(refused) = refused {
        timeout(LONG, refused.closed()).await.expect("one more is closed");
    }
    let metrics = bench.rig.metrics.encode();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("hub_proxy_connections_refused_total{reason=\"source\"}"));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{counted:?}");
}

#[tokio::test]
async fn who_names_a_clients_address_does_not_use_up_its_places() {
    let bench = Bench::with(|proxy| proxy.handshake_timeout = LONG).await;
    bench.rig.route(&[bench.rig.service(mirror)]);
    // First packets get through, answers do not: as if the address were forged.
    let one_way = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (entrance, proxy) = (one_way.local_addr().unwrap(), bench.rig.proxy);
    bench.rig.spawner.spawn("one way", async move {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = one_way.recv_from(&mut buffer).await {
            if from != proxy {
                let _ = one_way.send_to(buffer.get(..count).unwrap(), proxy).await;
            }
        }
    });
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = QuicClientConfig::try_from(bench.tls(b"h3")).unwrap();
    let config = ClientConfig::new(Arc::new(config));
    let mut forged = Vec::new();
    for _ in 0..400 {
        forged.push(endpoint.connect_with(config.clone(), entrance, "hub.example").unwrap());
        tokio::task::yield_now().await;
    }
    // All of the first ones have come once this one has.
    let mut client = timeout(LONG, bench.client()).await.expect("the client's places are used up");
    let (response, _) = get(&mut client, bench.request("GET", "/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    bench.rig.assert_metric("hub_proxy_connections_open 1");
    bench.rig.assert_metric("hub_proxy_connections_refused_total{reason=\"source\"} 0");
}
