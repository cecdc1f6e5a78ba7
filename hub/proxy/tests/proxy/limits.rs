//! Limits of services and of their clients: exact, live, and gone with what they counted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::limits::Limits;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

use crate::rig::{Body, LONG, Rig, empty, full, mirror, read_head, text};

const NONE: Limits = Limits { requests_per_second: 0, burst: 0, concurrent: 0, body_bytes: 0 };

impl Rig {
    fn limit(&self, limits: Limits, key_limits: Limits) {
        self.settle(ServiceSettings { limits, key_limits, ..ServiceSettings::default() });
    }

    /// Status, `Retry-After` and text of one request on a connection of its own.
    async fn outcome(&self, body: Body) -> (StatusCode, Option<u64>, String) {
        let mut client = self.http1().await;
        let response = client.send_request(self.request("POST", "/", body)).await.unwrap();
        let after =
            response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
        (response.status(), after, text(response).await)
    }
}

#[tokio::test]
async fn a_rate_lets_exactly_its_burst_pass_however_many_ask_at_once() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    for (limits, keys, code) in [
        (Limits { requests_per_second: 1, burst: 17, ..NONE }, NONE, "service_rate_limit"),
        (NONE, Limits { requests_per_second: 1, burst: 17, ..NONE }, "key_rate_limit"),
    ] {
        // A rate so low that nothing is won back meanwhile, whatever the machine does.
        let slow =
            |limits: Limits| Limits { requests_per_second: limits.requests_per_second.min(1), ..limits };
        rig.limit(slow(limits), slow(keys));
        let began = tokio::time::Instant::now();
        let answers = join_all((0..64).map(|_| rig.outcome(empty()))).await;
        let gained = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        let passed = answers.iter().filter(|answer| answer.0 == StatusCode::OK).count();
        assert!((17..17 + gained).contains(&passed), "{passed} passed");
        for (status, after, text) in answers.iter().filter(|answer| answer.0 != StatusCode::OK) {
            assert_eq!(*status, StatusCode::TOO_MANY_REQUESTS);
            assert!(
                text.contains(code) && after.is_some_and(|after| (1..=2).contains(&after)),
                "{text} {after:?}"
            );
        }
        let line = format!("hub_proxy_requests_refused_total{{reason=\"{code}\"}} {}", 64 - passed);
        rig.assert_metric(&line);
    }
}

#[tokio::test]
async fn a_changed_limit_holds_at_once() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    rig.limit(NONE, Limits { requests_per_second: 1, burst: 1, ..NONE });
    assert_eq!(rig.outcome(empty()).await.0, StatusCode::OK);
    assert_eq!(rig.outcome(empty()).await.0, StatusCode::TOO_MANY_REQUESTS);
    rig.limit(NONE, NONE);
    for _ in 0..10 {
        assert_eq!(rig.outcome(empty()).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn no_more_are_open_than_may_be() {
    let rig = Rig::new().await;
    let (gate, now, most) =
        (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (opens, counts, peak) = (Arc::clone(&gate), Arc::clone(&now), Arc::clone(&most));
    rig.route(&[rig.service(move |_| {
        let (opens, counts, peak) = (Arc::clone(&opens), Arc::clone(&counts), Arc::clone(&peak));
        async move {
            peak.fetch_max(counts.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            opens.acquire().await.unwrap().forget();
            counts.fetch_sub(1, Ordering::SeqCst);
            Response::new(full("done"))
        }
    })]);
    for (limits, keys, code) in [
        (Limits { concurrent: 7, ..NONE }, NONE, "service_concurrency_limit"),
        (NONE, Limits { concurrent: 7, ..NONE }, "key_concurrency_limit"),
    ] {
        rig.limit(limits, keys);
        let all = join_all((0..40).map(|_| rig.outcome(empty())));
        let refused = format!("hub_proxy_requests_refused_total{{reason=\"{code}\"}} 33");
        let release = async {
            while !rig.metrics.encode().contains(&refused) || now.load(Ordering::SeqCst) < 7 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            gate.add_permits(7);
        };
        let (answers, ()) = tokio::time::timeout(LONG, async { tokio::join!(all, release) }).await.unwrap();
        assert_eq!(answers.iter().filter(|answer| answer.0 == StatusCode::OK).count(), 7, "{answers:?}");
        assert!(answers.iter().filter(|answer| answer.0 != StatusCode::OK).all(|answer| {
            answer.0 == StatusCode::TOO_MANY_REQUESTS && answer.1 == Some(1) && answer.2.contains(code)
        }));
        assert_eq!(most.load(Ordering::SeqCst), 7);
        gate.add_permits(1);
        assert_eq!(rig.outcome(empty()).await.0, StatusCode::OK, "there is room again");
    }
}

#[tokio::test]
async fn a_websocket_counts_until_it_closes() {
    let rig = Rig::new().await;
    rig.route(&[rig.raw_service(|mut stream| async move {
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        let answer: &[u8] = if head.to_ascii_lowercase().contains("upgrade: websocket") {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        };
        stream.write_all(answer).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })]);
    rig.limit(NONE, Limits { concurrent: 1, ..NONE });
    let mut socket = rig.connect().await;
    let handshake = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let head = format!("GET / HTTP/1.1\r\n{}{handshake}", rig.admitted());
    socket.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut socket).await.starts_with(b"HTTP/1.1 101 "));
    for _ in 0..3 {
        assert_eq!(rig.outcome(empty()).await.0, StatusCode::TOO_MANY_REQUESTS);
    }
    drop(socket);
    let free = async {
        while rig.outcome(empty()).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, free).await.unwrap();
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_reaches_nobody() {
    let rig = Rig::new().await;
    let hits = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&hits);
    rig.route(&[rig.service(move |request| {
        counter.fetch_add(1, Ordering::SeqCst);
        mirror(request)
    })]);
    rig.limit(Limits { body_bytes: 100, ..NONE }, Limits { body_bytes: 1000, ..NONE });
    let (status, _, said) = rig.outcome(full(vec![b'x'; 101])).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(said.contains("body_too_large") && said.contains("100 bytes"), "{said}");
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    assert_eq!(rig.outcome(full(vec![b'x'; 100])).await.0, StatusCode::OK, "as much as may be");
}

/// A body of unknown length, fed from outside.
fn chunked() -> (mpsc::Sender<usize>, Body) {
    let (sender, receiver) = mpsc::channel::<usize>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let size = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; size]))), receiver))
    });
    (sender, StreamBody::new(stream).map_err(|never| match never {}).boxed_unsync())
}

#[tokio::test]
async fn a_stream_that_grows_too_large_is_cut_and_its_service_sees_no_end() {
    let rig = Rig::new().await;
    let (seen, mut saw) = mpsc::channel(4);
    rig.route(&[rig.raw_service(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut all = read_head(&mut stream).await;
            let _ = stream.read_to_end(&mut all).await;
            let text = String::from_utf8(all).unwrap();
            let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
            let _ = seen.send(body).await;
        }
    })]);
    rig.limit(Limits { body_bytes: 100, ..NONE }, NONE);
    for http2 in [false, true] {
        let (feed, body) = chunked();
        let request = rig.request("POST", "http://hub/", body);
        let answered = async {
            if http2 {
                rig.http2().await.send_request(request).await.unwrap()
            } else {
                rig.http1().await.send_request(request).await.unwrap()
            }
        };
        let fed = async {
            for _ in 0..3 {
                let _ = feed.send(40).await;
            }
            feed
        };
        let both = async { tokio::join!(answered, fed) };
        let (response, _feed) = tokio::time::timeout(LONG, both).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "http2: {http2}");
        assert!(text(response).await.contains("body_too_large"));
        let body = tokio::time::timeout(LONG, saw.recv()).await.unwrap().unwrap();
        assert!(body.matches('x').count() <= 100, "no more than may be: {body:?}");
        assert!(!body.ends_with("0\r\n\r\n"), "an aborted body is no whole one: {body:?}");
    }
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"body_too_large\"} 2");
}

#[tokio::test]
async fn a_stream_that_grows_too_large_under_its_answer_cuts_the_answer() {
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    rig.route(&[rig.service(|request| async move {
        Response::new(request.into_body().map_err(Into::into).boxed_unsync())
    })]);
    rig.limit(NONE, Limits { body_bytes: 100, ..NONE });
    let (feed, body) = chunked();
    feed.send(60).await.unwrap();
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("POST", "/", body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.len(), 60);
    feed.send(60).await.unwrap();
    let rest = tokio::time::timeout(LONG, body.collect()).await.unwrap();
    assert!(rest.is_err(), "a torn answer is no whole one");
    let counted = async {
        while !rig.metrics.encode().contains("hub_proxy_requests_refused_total{reason=\"body_too_large\"} 1")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, counted).await.unwrap();
    assert_eq!(ledger.clients().refused.get("body_too_large"), Some(&1));
}
