//! WebSockets, and what passes for one.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::rig::{LONG, Rig, mirror, read_head};

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
