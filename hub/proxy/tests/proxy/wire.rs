//! Answers over HTTP/1.1 as services word them, and connections to services that serve one request after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::rig::{LONG, Rig, empty, full, read_head, text};

/// A service that counts its connections and answers each head with the same words.
fn words(rig: &Rig, words: &'static str) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let address = rig.raw_service(move |mut stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                if stream.write_all(words.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    rig.route(&[address]);
    connections
}

async fn get(rig: &Rig) -> (StatusCode, Option<String>) {
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = timeout(LONG, body.collect()).await.unwrap();
    (parts.status, body.ok().map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap()))
}

#[tokio::test]
async fn a_connection_serves_the_next_request_only_after_a_clear_end() {
    for (answer, body, connections) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", 1),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n1\r\nb\r\n0\r\nx: y\r\n\r\n",
            "ab",
            1,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", 1),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab", "ab", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab", "ab", 3),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", 3),
        // Words that nobody asked for would be the next client's answer.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            "ab",
            3,
        ),
    ] {
        // Connections to services are a lane's own.
        let rig = Rig::with(|config| config.lanes = 1).await;
        let counted = words(&rig, answer);
        for _ in 0..3 {
            assert_eq!(get(&rig).await.1.as_deref(), Some(body), "{answer:?}");
        }
        assert_eq!(counted.load(Ordering::SeqCst), connections, "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_with_two_readings_is_none() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nab",
        "HTTP/1.1 200 OK\r\nx: y\r\n z\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
    ] {
        let rig = Rig::new().await;
        let counted = words(&rig, answer);
        let (status, body) = get(&rig).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer:?}");
        assert!(body.unwrap().contains("upstream_failed"), "{answer:?}");
        assert_eq!(counted.load(Ordering::SeqCst), 1, "asked again: {answer:?}");
    }
}

#[tokio::test]
async fn a_chunk_that_cannot_be_read_ends_the_answer_unfinished() {
    let rig = Rig::new().await;
    words(&rig, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n+1\r\nc\r\n0\r\n\r\n");
    assert_eq!(get(&rig).await, (StatusCode::OK, None));
    rig.assert_metric("hub_proxy_upstream_aborts_total 1");
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_its_connection() {
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").await.unwrap();
    })]);
    assert_eq!(get(&rig).await.1.as_deref(), Some("all of it"));
}

#[tokio::test]
async fn a_connection_that_a_service_closed_meanwhile_is_not_used() {
    let rig = Rig::new().await;
    let (closed, mut closes) = mpsc::channel(8);
    rig.route(&[rig.raw_service(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            closed.send(()).await.unwrap();
        }
    })]);
    let mut client = rig.http1().await;
    for _ in 0..5 {
        // A POST is not sent a second time, so it has to be right the first time.
        let response = client.send_request(rig.request("POST", "/", full("body"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(text(response).await, "ok");
        closes.recv().await.unwrap();
    }
    rig.assert_metric("hub_proxy_upstream_retries_total 0");
}

#[tokio::test]
async fn an_answer_that_is_over_early_leaves_the_rest_of_its_request_to_the_service() {
    const PIECES: usize = 64;
    let rig = Rig::new().await;
    let (taken, mut takes) = mpsc::channel(1);
    rig.route(&[rig.raw_service(move |mut stream: TcpStream| {
        let taken = taken.clone();
        async move {
            let mut read = read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await.unwrap();
            while !read.ends_with(b"0\r\n\r\n") && stream.read_buf(&mut read).await.unwrap() > 0 {}
            taken.send(read.iter().filter(|byte| **byte == b'#').count()).await.unwrap();
        }
    })]);
    let (up, mut pieces) = mpsc::channel::<Frame<Bytes>>(1);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| {
        pieces.poll_recv(cx).map(|frame| frame.map(Ok))
    }));
    let mut client = rig.http2().await;
    let response =
        client.send_request(rig.request("POST", "http://hub/", body.boxed_unsync())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut answer = response.into_body();
    let first = timeout(LONG, answer.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "early");
    for _ in 0..PIECES {
        up.send(Frame::data(Bytes::from(vec![b'#'; 1024]))).await.unwrap();
    }
    drop(up);
    let count = timeout(LONG, takes.recv()).await.unwrap().unwrap();
    assert_eq!(count, PIECES * 1024);
}

#[tokio::test]
async fn an_idle_connection_to_a_service_is_closed_after_some_seconds() {
    let rig = Rig::new().await;
    let (closed, mut closes) = mpsc::channel(1);
    rig.route(&[rig.raw_service(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let begun = tokio::time::Instant::now();
            let end = stream.read(&mut [0; 1]).await.unwrap_or_default();
            closed.send((end, begun.elapsed())).await.unwrap();
        }
    })]);
    assert_eq!(get(&rig).await.1.as_deref(), Some("ok"));
    let (end, after) = timeout(LONG, closes.recv()).await.unwrap().unwrap();
    assert_eq!(end, 0);
    assert!((Duration::from_millis(3900)..Duration::from_secs(7)).contains(&after), "{after:?}");
}
