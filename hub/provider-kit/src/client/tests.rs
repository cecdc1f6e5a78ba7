//! The client against servers on loopback, right and wrong ones.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// What a test's server does with its one connection.
#[derive(Clone, Copy)]
enum Says {
    /// These bytes, then the end.
    Bytes(&'static [u8]),
    /// These bytes, then nothing and no end.
    Silence(&'static [u8]),
    /// A head, and more bytes of a body than anybody wants.
    Much,
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: Says) -> String {
    let head = read_head(&mut stream).await;
    match says {
        Says::Bytes(bytes) => {
            stream.write_all(bytes).await.unwrap();
            let _ = stream.shutdown().await;
        }
        Says::Silence(bytes) => {
            stream.write_all(bytes).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        Says::Much => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        }
    }
    head
}

fn client() -> HttpClient {
    HttpClient::new(HttpConfig {
        max_body: 1 << 16,
        answer_within: Duration::from_millis(300),
        ..HttpConfig::default()
    })
    .unwrap()
}

fn get(url: &str) -> Request<Bytes> {
    Request::get(url).header("authorization", "Bearer canary").body(Bytes::from_static(b"canary")).unwrap()
}

/// Calls a server that says so; gives the answer and the head that the server read.
async fn call(says: Says) -> (Result<Response<Bytes>, ProviderError>, String) {
    call_by(client(), says).await
}

async fn call_by(client: HttpClient, says: Says) -> (Result<Response<Bytes>, ProviderError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v2/x?secret=canary", listener.local_addr().unwrap());
    let served = async {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, says).await
    };
    tokio::join!(client.send("GetX", get(&url)), served)
}

#[tokio::test]
async fn an_answer_comes_whole_whatever_its_status() {
    let says = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\nx: y\r\ncontent-length: 2\r\n\r\nhi";
    let (answer, head) = call(Says::Bytes(says)).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (302, &b"hi"[..]));
    assert_eq!(answer.headers()["x"], "y");
    assert!(head.starts_with("GET /v2/x?secret=canary HTTP/1.1\r\n"), "{head}");
    for line in ["host: 127.0.0.1:", "user-agent: blueprint-hub/", "connection: close", "content-length: 6"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let (answer, _) = call(Says::Silence(b"HTTP/1.1 204 No Content\r\n\r\n")).await;
    assert_eq!(answer.unwrap().status().as_u16(), 204);
}

/// Google answers 411 to a `POST` that does not say that it has no body.
#[tokio::test]
async fn a_post_without_a_body_says_so_and_a_get_says_nothing() {
    for (method, says_so) in [("POST", true), ("PUT", true), ("GET", false), ("DELETE", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let request = Request::builder().method(method).uri(url).body(Bytes::new()).unwrap();
        let served = async {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, Says::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n")).await
        };
        let client = client();
        let (answered, head) = tokio::join!(client.send("X", request), served);
        assert_eq!(answered.unwrap().status().as_u16(), 204);
        assert_eq!(head.contains("content-length: 0"), says_so, "{head}");
    }
}

#[tokio::test]
async fn where_the_head_is_enough_no_body_is_too_long_late_or_broken() {
    for says in [
        Says::Much,
        Says::Silence(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
        Says::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
    ] {
        let (answer, head) = call_by(client().without_bodies(), says).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 0));
        assert!(head.contains("content-length: 6"), "{head}");
    }
    let (answer, _) = call_by(client().without_bodies(), Says::Silence(b"HTTP/1.1 200 OK\r\n")).await;
    assert!(answer.unwrap_err().line().contains("more than 300ms"));
}

#[tokio::test]
async fn what_breaks_after_the_request_may_have_been_done() {
    for (says, text) in [
        (Says::Bytes(b""), "broke off"),
        (Says::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak"),
        (Says::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), "broke off"),
        (Says::Silence(b"HTTP/1.1 200 OK\r\n"), "more than 300ms"),
        (Says::Silence(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), "more than 300ms"),
        (Says::Much, "more than 65536 bytes"),
    ] {
        let (answer, _) = call(says).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, ProviderError::Other { call: "GetX", .. }), "{error:?}");
        assert!(error.line().contains(text), "{text}: {}", error.line());
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

/// Reads the answer of a server that says so in pieces, until `most` bytes were taken.
async fn read(says: Says, most: usize) -> (Result<Response<Bytes>, ProviderError>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let served = async {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, says).await
    };
    let (client, mut taken) = (client(), Vec::new());
    let mut take = |piece: &[u8]| {
        taken.extend_from_slice(piece);
        if taken.len() > most { Err("that is enough".into()) } else { Ok(()) }
    };
    let (answered, _) = tokio::join!(client.read("GetX", get(&url), &mut take), served);
    (answered, taken)
}

#[tokio::test]
async fn a_long_answer_is_given_in_pieces_and_a_refusal_is_not() {
    for says in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabcdef"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n4\r\ncdef\r\n0\r\n\r\n",
    ] {
        let (answer, taken) = read(Says::Bytes(says), 6).await;
        assert_eq!((answer.unwrap().body().len(), &taken[..]), (0, &b"abcdef"[..]));
    }
    let says = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone";
    let (answer, taken) = read(Says::Bytes(says), 6).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..], taken.len()), (404, &b"none"[..], 0));
}

#[tokio::test]
async fn half_a_long_answer_is_an_error_and_so_is_one_without_an_end() {
    for (says, text) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"[..], "broke off after 4 bytes"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "broke off after 4 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nwhole?", "does not say where it ends"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 65537\r\n\r\nlong", "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nrefused", "cannot be used: that is enough"),
        (b"", "broke off"),
    ] {
        let (answer, _) = read(Says::Bytes(says), 6).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, ProviderError::Other { call: "GetX", .. }), "{error:?}");
        assert!(error.line().contains(text), "{text}: {}", error.line());
    }
    let silent = Says::Silence(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
    let (answer, taken) = read(silent, 6).await;
    assert!(answer.unwrap_err().line().contains("more than 300ms"));
    assert_eq!(taken, b"half");
}

#[tokio::test]
async fn without_a_connection_nothing_was_done() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{free}/"), format!("https://{free}/")] {
        let error = client().send("GetX", get(&url)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Unsent { call: "GetX", .. }), "{error:?}");
    }
}

#[tokio::test]
async fn only_https_leaves_this_machine() {
    for url in [
        "http://192.0.2.1/",
        "http://example.org/",
        "http://127.0.0.1.example.org/",
        "http://user@127.0.0.1/",
        "ftp://127.0.0.1/",
        "/v2/x",
        "https://canary:canary@example.org/",
    ] {
        let error = client().send("GetX", get(url)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Reject { .. }), "{url}: {error:?}");
        assert!(!error.line().contains("canary"), "{}", error.line());
    }
}

/// An authority and a server's configuration for 127.0.0.1.
fn authority() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (ca.pem(), Arc::new(config))
}

#[tokio::test]
async fn a_certificate_has_to_come_from_a_trusted_authority() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roots.pem");
    let (pem, server) = authority();
    std::fs::write(&path, pem).unwrap();
    let trusting = HttpClient::new(HttpConfig { extra_roots: Some(path), ..HttpConfig::default() }).unwrap();
    for (client, is_trusted) in [(trusting, true), (client(), false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let acceptor = TlsAcceptor::from(Arc::clone(&server));
        let served = async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, Says::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
            }
        };
        let (answer, ()) = tokio::join!(client.send("GetX", get(&url)), served);
        match answer {
            Ok(answer) => assert!(is_trusted && answer.status().is_success()),
            Err(error) => {
                assert!(!is_trusted && matches!(error, ProviderError::Unsent { .. }), "{error:?}");
                assert!(error.line().contains("no TLS"), "{}", error.line());
            }
        }
    }
}

#[test]
fn a_file_of_authorities_has_to_hold_some() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let path = folder.path().join("roots.pem");
        std::fs::write(&path, text).unwrap();
        let config = HttpConfig { extra_roots: Some(path), ..HttpConfig::default() };
        let error = HttpClient::new(config).unwrap_err();
        assert!(error.to_string().contains("roots.pem"), "{error}");
    }
    let config = HttpConfig { user_agent: "a\nb".to_owned(), ..HttpConfig::default() };
    assert!(matches!(HttpClient::new(config), Err(HttpSetupError::UserAgent(_))));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn the_log_has_a_line_for_each_call_and_nothing_of_what_was_said() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let says = b"HTTP/1.1 200 OK\r\nx: canary\r\ncontent-length: 6\r\n\r\ncanary";
        runtime.block_on(call(Says::Bytes(says))).0.unwrap();
        runtime.block_on(call(Says::Bytes(b""))).0.unwrap_err();
    });
    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    let ours: Vec<_> = text.lines().filter(|line| line.contains("provider_kit")).collect();
    assert_eq!(ours.len(), 2, "{text}");
    assert!(
        ours[0].contains("GetX") && ours[0].contains("status=200") && ours[0].contains("duration_ms="),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn plain_http_is_for_this_machine_and_its_metadata_service() {
    let takes = |url: &str| {
        let target = Target::of(&url.parse().unwrap()).ok()?;
        let address = target.host.parse::<IpAddr>().ok()?;
        Some(target.takes(address))
    };
    for here in
        ["http://127.0.0.1:1/", "http://[::1]/", "http://169.254.169.254/", "http://[fd00:ec2::254]/x"]
    {
        assert_eq!(takes(here), Some(true), "{here}");
    }
    for elsewhere in ["http://169.254.169.253/", "http://169.254.169.254.example.org/", "http://[fd00::254]/"]
    {
        assert_eq!(takes(elsewhere), None, "{elsewhere}");
    }
    let named = Target::of(&"http://localhost/".parse().unwrap()).unwrap();
    assert!(!named.takes(IpAddr::from([10, 0, 0, 1])), "a name of this machine that leads elsewhere");
}
