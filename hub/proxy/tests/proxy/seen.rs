//! What is written, counted and billed of requests.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::usage::Used;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt;

use crate::rig::{Rig, SERVICE, closed_port, empty, full, mirror, read_head, text};

/// The access log of the tasks of this test, which run on its own thread.
pub(crate) struct Lines {
    written: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn read() -> Self {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let subscriber =
            fmt().json().flatten_event(true).with_writer(move || Sink(Arc::clone(&sink))).finish();
        Self { written, _guard: tracing::subscriber::set_default(subscriber) }
    }

    fn all(&self) -> String {
        String::from_utf8_lossy(&self.written.lock()).into_owned()
    }

    /// Waits until there are so many lines about requests, and gives them.
    pub(crate) async fn requests(&self, count: usize) -> Vec<Value> {
        loop {
            let all = self.all();
            let lines = all.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found: Vec<_> = lines.filter(|line| line["target"] == "access").collect();
            if found.len() >= count {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn every_request_is_one_line_without_a_secret_in_it() {
    let lines = Lines::read();
    let rig = Rig::new().await;
    let address = rig.service(mirror);
    rig.route(&[address]);
    let mut client = rig.http1().await;
    let mut request = rig.request("POST", "/a/./b?secret=q", full("12345"));
    request.headers_mut().insert("x-request-id", "my-request-7".parse().unwrap());
    let response = client.send_request(request).await.unwrap();
    let sent = text(response).await.len();
    let response = rig.http2().await.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
    text(response).await;

    let found = lines.requests(2).await;
    let line = &found[0];
    for (field, value) in [
        ("request_id", "my-request-7"),
        ("source", "127.0.0.1"),
        ("protocol", "http/1.1"),
        ("method", "POST"),
        ("path", "/a/b"),
        ("service", "7/42"),
        ("auth", "token"),
        ("target_address", &address.to_string()),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!(
        (&line["status"], &line["bytes_in"], &line["bytes_out"]),
        (&200.into(), &5.into(), &sent.into())
    );
    assert_eq!(line["identity"], rig.token.id().to_string());
    let micros = |field: &str| line[field].as_u64().unwrap();
    let parts = ["decide_us", "connect_us", "upstream_us"].map(micros);
    assert!(parts.iter().sum::<u64>() <= micros("total_us"), "{line}");
    assert_eq!(micros("tries"), 1);
    assert_eq!(found[1]["protocol"], "h2");
    assert_eq!(found[1]["connect_us"], Value::Null, "the connection was there already");
    let all = lines.all();
    let secret = rig.token.expose_text();
    assert!(!all.contains(secret.expose().as_str()) && !all.contains("secret=q"), "{all}");
}

#[tokio::test]
async fn a_request_that_no_target_answers_says_where_it_was_sent_and_for_how_long() {
    let lines = Lines::read();
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    let closed = [closed_port().await, closed_port().await];
    rig.route(&closed);
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    text(response).await;
    let silent = rig.raw_service(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    rig.route(&[silent]);
    rig.settle(serde_json::from_str(r#"{"upstream":{"response_header_timeout_secs":1}}"#).unwrap());
    let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    text(response).await;

    let found = lines.requests(2).await;
    let unreachable = &found[0];
    assert_eq!((&unreachable["tries"], &unreachable["status"]), (&2.into(), &503.into()));
    assert_eq!(unreachable["refused"], "target_unreachable");
    let last = unreachable["target_address"].as_str().unwrap();
    assert!(closed.iter().any(|address| address.to_string() == last), "{unreachable}");
    assert!(unreachable["connect_us"].is_u64() && unreachable["upstream_us"].is_u64(), "{unreachable}");
    let late = &found[1];
    assert_eq!((&late["tries"], &late["status"]), (&1.into(), &504.into()));
    assert_eq!(late["target_address"], silent.to_string());
    assert!((1_000_000..10_000_000).contains(&late["upstream_us"].as_u64().unwrap()), "{late}");
    let used = ledger.usage(SERVICE).unwrap().total;
    assert_eq!((used.requests, used.refused), (0, 2), "no service answered them");
}

#[tokio::test]
async fn a_websocket_that_was_cut_says_why() {
    let lines = Lines::read();
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    rig.route(&[rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        let agrees = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(agrees).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })]);
    let mut client = rig.connect().await;
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.write_all(format!("GET / HTTP/1.1\r\n{}{asks}\r\n", rig.admitted()).as_bytes()).await.unwrap();
    read_head(&mut client).await;
    rig.revoke();
    let found = lines.requests(1).await;
    assert_eq!((&found[0]["protocol"], &found[0]["status"]), (&"websocket".into(), &101.into()));
    assert_eq!(found[0]["refused"], "revoked_token");
    let used = ledger.usage(SERVICE).unwrap().total;
    assert_eq!((used.requests, used.refused), (1, 0), "it was let in");
}

#[tokio::test]
async fn a_refusal_says_whose_request_it_was_and_why() {
    let lines = Lines::read();
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let rules = r#"{"rules":[{"action":"deny","paths":["/admin/*"]},{"action":"allow"}]}"#;
    rig.settle(serde_json::from_str(rules).unwrap());
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("GET", "/admin/x", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    rig.raw("GET / HTTP/1.1\nHost: hub\r\n\r\n").await;
    let found = lines.requests(2).await;
    assert_eq!((&found[0]["refused"], &found[0]["status"]), (&"rule_refused".into(), &403.into()));
    assert_eq!(found[0]["identity"], rig.token.id().to_string());
    assert_eq!((&found[0]["service"], &found[0]["path"]), (&"7/42".into(), &"/admin/x".into()));
    assert_eq!((&found[1]["refused"], &found[1]["method"]), (&"malformed_request".into(), &Value::Null));
}

#[tokio::test]
async fn what_goes_on_in_another_protocol_is_written_at_its_end_with_all_its_bytes() {
    let lines = Lines::read();
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        let agrees = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(agrees).await.unwrap();
        let mut got = [0; 1000];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(&[1; 300]).await.unwrap();
    })]);
    let mut client = rig.connect().await;
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.write_all(format!("GET / HTTP/1.1\r\n{}{asks}\r\n", rig.admitted()).as_bytes()).await.unwrap();
    read_head(&mut client).await;
    client.write_all(&[7; 1000]).await.unwrap();
    client.read_exact(&mut [0; 300]).await.unwrap();
    assert!(!lines.all().contains("\"target\":\"access\""));
    drop(client);
    let found = lines.requests(1).await;
    assert_eq!((&found[0]["protocol"], &found[0]["status"]), (&"websocket".into(), &101.into()));
    assert_eq!((&found[0]["bytes_in"], &found[0]["bytes_out"]), (&1000.into(), &300.into()));
}

#[tokio::test]
async fn sums_by_service_and_key_are_exact() {
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    rig.route(&[rig.service(|request| {
        let count = if request.method() == "POST" { 70 } else { 7 };
        async move { http::Response::new(full(vec![7; count])) }
    })]);
    rig.settle(serde_json::from_str(r#"{"rules":[{"action":"allow","methods":["GET","POST"]}]}"#).unwrap());
    let mut client = rig.http1().await;
    for _ in 0..10 {
        text(client.send_request(rig.request("GET", "/", empty())).await.unwrap()).await;
        text(client.send_request(rig.request("POST", "/", full(vec![1; 100]))).await.unwrap()).await;
        let refused = client.send_request(rig.request("PUT", "/", empty())).await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        text(refused).await;
    }
    rig.assert_metric("hub_proxy_requests_open 0");
    let usage = ledger.usage(SERVICE).unwrap();
    let refusals = usage.total.bytes_out - 770;
    assert!(refusals > 1000, "the words of refusals are bytes, too");
    let all = Used { requests: 20, refused: 10, bytes_in: 1000, bytes_out: 770 + refusals, ..usage.total };
    assert_eq!(usage.total, all);
    assert_eq!(usage.by_key.into_iter().collect::<Vec<_>>(), [(rig.token.id().to_string(), all)]);
    rig.assert_metric("hub_proxy_service_requests_total{service=\"7/42\"} 20");
    rig.assert_metric("hub_proxy_service_refused_total{service=\"7/42\"} 10");
    rig.assert_metric("hub_proxy_service_received_bytes_total{service=\"7/42\"} 1000");
    rig.assert_metric("hub_proxy_upstream_first_byte_seconds_count 20");

    let rows = ledger.take_refused();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].count, rows[0].by.code, rows[0].by.service), (10, "rule_refused", Some(SERVICE)));
    assert_eq!(rows[0].identity, Some(rig.token.id().to_string()));
    assert!(ledger.take_refused().is_empty());
}

#[tokio::test]
async fn what_is_open_for_long_is_in_the_sums_before_its_end() {
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    rig.route(&[rig.raw_service(|mut stream| async move {
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        if head.contains("pgrade: websocket") {
            let agrees =
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(agrees).await.unwrap();
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        }
        stream.write_all(&[7; 100]).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })]);
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut clients = Vec::new();
    for more in [asks, ""] {
        let mut client = rig.connect().await;
        client.write_all(format!("GET / HTTP/1.1\r\n{}{more}\r\n", rig.admitted()).as_bytes()).await.unwrap();
        read_head(&mut client).await;
        clients.push(client);
    }
    let sums = || ledger.usage(SERVICE).map(|usage| (usage.total.requests, usage.total.bytes_out));
    assert_eq!(sums(), None);
    let settled = async {
        while sums() != Some((2, 200)) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), settled).await.unwrap();
    drop(clients);
    let closed = async {
        while ledger.clients().requests > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), closed).await.unwrap();
    assert_eq!(sums(), Some((2, 200)), "nothing is counted twice");
}
