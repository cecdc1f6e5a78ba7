//! WebSockets, and what passes for one.

use std::time::Duration;

use base64::Engine;
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Body, LONG, Rig, empty, mirror, read_head, text};

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const AGREES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Agrees to every upgrade and then sends back what it gets.
async fn echo(mut stream: TcpStream) {
    let head = read_head(&mut stream).await;
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("x-tenant-name: acme\r\n") && !head.contains("authorization"), "{head}");
    stream.write_all(AGREES.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(buffer.get(..count).unwrap()).await.unwrap();
    }
}

async fn open(rig: &Rig) -> TcpStream {
    let mut client = rig.connect().await;
    let request = format!("GET /chat HTTP/1.1\r\n{}{HANDSHAKE}\r\n", rig.admitted());
    client.write_all(request.as_bytes()).await.unwrap();
    let head = String::from_utf8(read_head(&mut client).await).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    client
}

#[tokio::test]
async fn a_websocket_passes_once_the_service_has_agreed() {
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(echo)]);
    let mut client = open(&rig).await;
    for round in 0..3u8 {
        let sent = [0x82, 0x03, round, b'\n', b'\n'];
        client.write_all(&sent).await.unwrap();
        let mut got = [0; 5];
        timeout(LONG, client.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, sent);
    }
}

#[tokio::test]
async fn a_websocket_may_be_quiet() {
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(echo)]);
    let mut client = open(&rig).await;
    for _ in 0..2 {
        sleep(Duration::from_millis(1400)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(timeout(LONG, client.read(&mut [0; 8])).await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn a_revocation_cuts_a_running_websocket_within_two_seconds() {
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(echo)]);
    let mut client = open(&rig).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 1);
    let begin = Instant::now();
    rig.revoke();
    let end = timeout(LONG, client.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_requests_revoked_total 1");
}

#[tokio::test]
async fn a_service_that_declines_is_answered_and_what_follows_is_a_request() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let mut client = rig.connect().await;
    let first = format!("GET /one HTTP/1.1\r\n{}{HANDSHAKE}\r\n", rig.admitted());
    let second = format!("GET /two HTTP/1.1\r\n{}Connection: close\r\n\r\n", rig.admitted());
    client.write_all(format!("{first}{second}").as_bytes()).await.unwrap();
    let mut all = String::new();
    timeout(LONG, client.read_to_string(&mut all)).await.unwrap().unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 2, "{all}");
    assert!(all.contains("GET /one\n") && all.contains("GET /two\n"), "{all}");
}

#[tokio::test]
async fn no_upgrade_smuggles_a_request() {
    let rig = Rig::new().await;
    // It agrees to what nobody asked for, and to another protocol than the one asked for.
    rig.route(&[rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })]);
    for asked in ["", HANDSHAKE, "Connection: upgrade\r\nUpgrade: h2c\r\n"] {
        let text = format!("GET / HTTP/1.1\r\n{}{asked}Connection: close\r\n\r\n", rig.admitted());
        let answer = rig.raw(&text).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{asked:?}: {answer}");
    }
    let with_body = format!(
        "POST / HTTP/1.1\r\n{}{HANDSHAKE}Content-Length: 1\r\nConnection: close\r\n\r\nx",
        rig.admitted()
    );
    assert!(rig.raw(&with_body).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn what_the_guard_refuses_is_answered_in_its_turn_and_ends_the_connection() {
    let rig = Rig::new().await;
    let (address, seen) = crate::admission::counted(&rig);
    rig.route(&[address]);
    let admitted = rig.admitted();
    for (bad, code) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "ambiguous_framing"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "ambiguous_framing"),
        ("Transfer-Encoding: gzip, chunked\r\n", "ambiguous_framing"),
        ("X : 1\r\n", "malformed_request"),
        ("X: 1\n", "malformed_request"),
        ("X: 1\r\n folded\r\n", "malformed_request"),
    ] {
        let text =
            format!("POST / HTTP/1.1\r\n{admitted}{bad}\r\nhelloGET /smuggled HTTP/1.1\r\n{admitted}\r\n");
        let answer = rig.raw(&text).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{bad:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 0, "nothing reached the service");
    rig.route(&[rig.service(mirror)]);
    let text = format!("GET /good HTTP/1.1\r\n{admitted}\r\nGET /bad HTTP/1.1\r\n{admitted}X : 1\r\n\r\n");
    let answer = rig.raw(&text).await;
    let (good, bad) = (answer.find("200 OK").unwrap(), answer.find("400 Bad Request").unwrap());
    assert!(good < bad && answer.contains("GET /good\n"), "{answer}");
}

/// The head of an extended CONNECT.
fn connect(rig: &Rig, protocol: &'static str) -> Request<Body> {
    let mut request = rig.request("CONNECT", "http://hub/chat?room=1", empty());
    request.headers_mut().remove("host");
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
    request
}

/// A handshake of HTTP/1.1, answered as RFC 6455 has it, and then an echo.
async fn careful_echo(mut stream: TcpStream) {
    let head = String::from_utf8(read_head(&mut stream).await).unwrap();
    assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    for line in
        ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", "x-tenant-name: acme"]
    {
        assert_eq!(lower.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line}: {head}");
    }
    assert!(!lower.contains("authorization") && !lower.contains("content-length"), "{head}");
    let key = lower.find("sec-websocket-key: ").and_then(|at| head.get(at + 19..at + 43)).unwrap();
    let hashed = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    let accept = base64::engine::general_purpose::STANDARD.encode(hashed);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(buffer.get(..count).unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn a_websocket_over_http2_becomes_one_of_http1_at_the_service() {
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(careful_echo)]);
    let mut client = rig.http2().await;
    let mut open = Vec::new();
    for round in 0..3u8 {
        let mut response = client.send_request(connect(&rig, "websocket")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers().get("sec-websocket-protocol").unwrap(), "chat");
        for absent in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
            assert!(!response.headers().contains_key(absent), "{absent}");
        }
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        let sent = vec![round; 300_000];
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(write.write_all(&sent), timeout(LONG, read.read_exact(&mut got)));
        wrote.unwrap();
        read.unwrap().unwrap();
        assert!(got == sent);
        open.push(stream);
    }
    // An ordinary request goes beside them on the same connection.
    rig.route(&[rig.service(mirror)]);
    let answer = client.send_request(rig.request("GET", "http://hub/beside", empty())).await.unwrap();
    assert!(text(answer).await.starts_with("GET /beside\n"));
    let begin = Instant::now();
    rig.revoke();
    for mut stream in open {
        let end = timeout(LONG, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)));
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_requests_revoked_total 3");
}

#[tokio::test]
async fn no_success_is_said_over_http2_where_the_service_did_not_agree() {
    let rig = Rig::new().await;
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", StatusCode::BAD_GATEWAY),
        ("HTTP/1.1 204 No Content\r\n\r\n", StatusCode::BAD_GATEWAY),
        // The answer to another key.
        (AGREES, StatusCode::BAD_GATEWAY),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", StatusCode::FORBIDDEN),
    ] {
        rig.route(&[rig.raw_service(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read(&mut [0; 1]).await;
        })]);
        let mut client = rig.http2().await;
        let response = client.send_request(connect(&rig, "websocket")).await.unwrap();
        assert_eq!(response.status(), status, "{answer}");
    }
    rig.route(&[rig.service(mirror)]);
    let mut client = rig.http2().await;
    let other = client.send_request(connect(&rig, "connect-udp")).await.unwrap();
    assert_eq!(other.status(), StatusCode::METHOD_NOT_ALLOWED);
    let mut plain = connect(&rig, "websocket");
    plain.extensions_mut().clear();
    *plain.uri_mut() = "hub:80".parse().unwrap();
    let plain = client.send_request(plain).await.unwrap();
    assert_eq!(plain.status(), StatusCode::METHOD_NOT_ALLOWED);
    let mut own = connect(&rig, "websocket");
    *own.uri_mut() = "http://hub/.well-known/blueprint-hub/jwks.json".parse().unwrap();
    let own = client.send_request(own).await.unwrap();
    assert_eq!(own.status(), StatusCode::METHOD_NOT_ALLOWED, "it is the hub's, and no websocket");
}
