//! Protocols beside plain requests, through a real hub, tunnel and agent: WebSockets until a revocation, events with long
//! silences, calls of gRPC.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use blueprint_tests_support::eventually_ok;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::fixture::{Agent, Hub, SOON, rows, text};
use crate::owners::Owner;

/// How soon what is open has to end after a revocation.
const CUT: Duration = Duration::from_secs(2);

/// How long the service says nothing between two events: more than a connection may idle at the hub of these tests.
const SILENCE: Duration = Duration::from_secs(5);

/// Reads a head, byte by byte, so that nothing after it is lost.
fn head(stream: &mut TcpStream) -> Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read(&mut byte)? == 1, "no whole head: {}", String::from_utf8_lossy(&head));
        head.extend(byte);
    }
    Ok(String::from_utf8(head)?)
}

/// Answers one connection: an echo once a WebSocket is asked for, events, and health.
fn serve(mut stream: TcpStream) -> Result<()> {
    loop {
        let asked = head(&mut stream)?;
        if asked.to_ascii_lowercase().contains("upgrade: websocket") {
            let agrees =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(agrees.as_bytes())?;
            std::io::copy(&mut stream.try_clone()?, &mut stream)?;
            return Ok(());
        }
        if asked.starts_with("GET /events ") {
            let begin = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            write!(stream, "{begin}data: first\n\n")?;
            thread::sleep(SILENCE);
            write!(stream, "data: second\n\n")?;
            return Ok(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
    }
}

/// A service on loopback, whose threads end with the connections and the test's process.
fn service() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let body = move || {
        for stream in listener.incoming().flatten() {
            let served = thread::Builder::new().name("connection".to_owned()).spawn(|| drop(serve(stream)));
            drop(served);
        }
    };
    thread::Builder::new().name("service".to_owned()).spawn(body)?;
    Ok(address)
}

/// A hub, and a machine that offers such a service as 7/42.
fn world() -> Result<(Hub<'static>, Agent<'static>)> {
    let hub = Hub::start(&["proxy.idle_timeout=1s"])?;
    let mut agent = Agent::join(None, "open", &hub.join_line(&[])?)?;
    agent.run()?;
    agent.offer("7/42", service()?)?;
    Ok((hub, agent))
}

/// Asks for `path` and gives the head of the answer and the rest.
fn open(hub: &Hub<'_>, token: &str, path: &str, more: &str) -> Result<(String, TcpStream)> {
    let mut stream = TcpStream::connect(hub.proxy())?;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: hub\r\nX-Service-Id: 42\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    )?;
    Ok((head(&mut stream)?, stream))
}

/// A WebSocket that was seen to echo.
fn websocket(hub: &Hub<'_>, token: &str) -> Result<TcpStream> {
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (answer, mut stream) = open(hub, token, "/", asks)?;
    ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    echo(&mut stream)?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"hello")?;
    let mut got = [0; 5];
    stream.read_exact(&mut got).context("no echo")?;
    ensure!(&got == b"hello", "{got:?}");
    Ok(())
}

/// Waits for the end of a connection, which has to come soon after `revoked`.
fn ends(mut stream: TcpStream, revoked: Instant) -> Result<()> {
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        Ok(count) => bail!("{count} bytes more"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("the connection did not end"),
    }
    ensure!(revoked.elapsed() < CUT, "after {:?}", revoked.elapsed());
    Ok(())
}

#[test]
fn a_revocation_of_either_credential_cuts_its_websockets_within_two_seconds() -> Result<()> {
    let (hub, _agent) = world()?;
    let made = hub.json(&["access", "create", "--service", "7/42"])?;
    let (id, token) = (text(&made, "/token/id")?, text(&made, "/access_token")?);
    hub.wait_served("42", token, SOON)?;
    let owner = Owner::new()?;
    hub.json(&["service", "owner", "add", "7/42", &format!("ecdsa:{}", owner.public())])?;
    let key = owner.api_key(&hub)?;
    let (of_token, mut of_key) = (websocket(&hub, token)?, websocket(&hub, &key)?);

    hub.json(&["access", "revoke", id])?;
    ends(of_token, Instant::now())?;
    echo(&mut of_key).context("the other one goes on")?;

    let keys = hub.json(&["key", "ls", "--service", "7/42"])?;
    let [row] = rows(&keys, "/keys")? else { bail!("one key: {keys}") };
    hub.json(&["key", "revoke", text(row, "/id")?])?;
    ends(of_key, Instant::now())?;
    let log = hub.log();
    ensure!(log.matches("open request cut").count() == 2, "{log}");
    Ok(())
}

#[test]
fn events_may_stay_away_for_longer_than_a_connection_may_idle() -> Result<()> {
    let (hub, _agent) = world()?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    let begin = Instant::now();
    let (answer, mut stream) = open(&hub, &token, "/events", "Connection: close\r\n")?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("text/event-stream"), "{answer}");
    let mut first = [0; 64];
    let count = stream.read(&mut first)?;
    ensure!(
        String::from_utf8_lossy(first.get(..count).unwrap_or_default()).contains("first"),
        "the first event"
    );
    ensure!(begin.elapsed() < SILENCE, "the first event did not wait for the second");
    let mut rest = String::new();
    stream.read_to_string(&mut rest)?;
    ensure!(rest.contains("data: second") && begin.elapsed() >= SILENCE, "{rest}");
    Ok(())
}

/// Answers a call with a message and trailers, over HTTP/2 alone.
async fn call(request: hyper::Request<Incoming>) -> Result<hyper::Response<Reply>, Infallible> {
    let message = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static("well"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut answer = hyper::Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(answer)
}

type Reply =
    StreamBody<futures_util::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

/// Serves calls until the runtime ends.
async fn serve_calls(listener: tokio::net::TcpListener) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        open.spawn(async move {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(call)).await;
        });
    }
}

/// One call through the proxy: its status, the message that came back, and the trailers.
async fn ask(proxy: SocketAddr, token: &str) -> Result<(u16, Bytes, Option<HeaderMap>)> {
    let stream = tokio::net::TcpStream::connect(proxy).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let request = hyper::Request::post(format!("http://{proxy}/echo.Echo/Say"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-service-id", "43")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x05hello")))?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok((head.status.as_u16(), body.to_bytes(), trailers))
    };
    tokio::select! {
        got = exchange => got,
        ended = connection => bail!("the connection ended: {ended:?}"),
    }
}

#[test]
fn a_grpc_call_comes_back_with_its_trailers() -> Result<()> {
    let (hub, agent) = world()?;
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let local = listener.local_addr()?.to_string();
    let _serving = runtime.spawn(serve_calls(listener));
    agent.json(&["service", "add", "7/43", "--local", &local, "--check", "none"])?;
    let token = hub.access_token("7/43")?;
    eventually_ok(SOON, "an answer to a call", || {
        let (status, message, trailers) = runtime.block_on(ask(hub.proxy(), &token))?;
        ensure!(status == 200 && &message[..] == b"\0\0\0\0\x05hello", "{status} {message:?}");
        let trailers = trailers.context("no trailers")?;
        let value = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
        ensure!(value("grpc-status") == Some("0") && value("grpc-message") == Some("well"), "{trailers:?}");
        Ok(())
    })
}
