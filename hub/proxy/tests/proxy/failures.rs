//! Targets that are not there, that break off, and clients that dawdle or leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use crate::rig::{LONG, Rig, closed_port, empty, full, mirror, read_head, text};

#[tokio::test]
async fn a_target_that_refuses_the_connection_is_replaced_by_the_next() {
    let rig = Rig::new().await;
    let live = rig.service(mirror);
    rig.route(&[closed_port().await, live, closed_port().await]);
    let mut client = rig.http1().await;
    for number in 0..9 {
        let body = format!("body {number}");
        let response = client.send_request(rig.request("POST", "/", full(body.clone()))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(text(response).await.ends_with(&body), "the body is whole after a retry");
    }
    assert!(!rig.metrics.encode().contains("hub_proxy_upstream_retries_total 0\n"));
}

#[tokio::test]
async fn a_service_whose_targets_all_refuse_is_unavailable() {
    let rig = Rig::new().await;
    rig.route(&[closed_port().await, closed_port().await]);
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(response).await.contains("target_unreachable"));
    rig.assert_metric("hub_proxy_upstream_retries_total 1");
}

#[tokio::test]
async fn a_body_that_was_sent_is_never_sent_again() {
    let rig = Rig::new().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let mut targets = Vec::new();
    for _ in 0..2 {
        let counter = Arc::clone(&requests);
        let address = rig.raw_service(move |mut stream| {
            let counter = Arc::clone(&counter);
            async move {
                read_head(&mut stream).await;
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        targets.push(address);
    }
    rig.route(&targets);
    for method in ["GET", "POST"] {
        let before = requests.load(Ordering::SeqCst);
        let mut client = rig.http1().await;
        let response = client.send_request(rig.request(method, "/", full("once"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert!(text(response).await.contains("upstream_failed"));
        assert_eq!(requests.load(Ordering::SeqCst) - before, 1, "{method}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_aborted_one() {
    let rig = Rig::new().await;
    for head in ["Content-Length: 1000\r\n\r\nbegin", "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"] {
        let address = rig.raw_service(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
        });
        rig.route(&[address]);
        let mut http1 = rig.http1().await;
        let mut http2 = rig.http2().await;
        let first = http1.send_request(rig.request("GET", "/", empty())).await.unwrap();
        let second = http2.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
        for response in [first, second] {
            assert_eq!(response.status(), StatusCode::OK);
            let version = response.version();
            let collected = tokio::time::timeout(LONG, response.into_body().collect()).await.unwrap();
            assert!(collected.is_err(), "{version:?} took a torn answer for a whole one ({head:?})");
        }
    }
    rig.assert_metric("hub_proxy_upstream_aborts_total 4");
}

#[tokio::test]
async fn a_client_that_dawdles_over_its_head_is_cut() {
    let rig = Rig::with(|config| config.header_timeout = Duration::from_millis(200)).await;
    rig.route(&[rig.service(mirror)]);
    for beginning in ["", "G", "GET / HTTP/1.1\r\nHost: hub\r\nX-Slow: "] {
        let mut stream = rig.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{beginning:?} was not cut");
    }
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"silent\"} 1");
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_head\"} 2");
}

#[tokio::test]
async fn a_stream_outlives_the_time_limit_for_heads() {
    let rig = Rig::with(|config| config.header_timeout = Duration::from_millis(100)).await;
    let address = rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(b"cd").await.unwrap();
    });
    rig.route(&[address]);
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(text(response).await, "abcd");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_service() {
    let rig = Rig::new().await;
    let (ended, mut ends) = mpsc::channel(1);
    let address = rig.raw_service(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            let end = stream.read(&mut [0; 1]).await;
            let _ = ended.send(end).await;
        }
    });
    rig.route(&[address]);
    let mut client = rig.connect().await;
    client.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted()).as_bytes()).await.unwrap();
    while rig.metrics.encode().contains("hub_proxy_requests_open 0") {
        tokio::task::yield_now().await;
    }
    drop(client);
    let end = tokio::time::timeout(LONG, ends.recv()).await.unwrap().unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn drain_finishes_what_is_open_and_takes_no_more() {
    let rig = Rig::new().await;
    let (arrived, mut arrivals) = mpsc::channel::<()>(1);
    let (finish, finished) = mpsc::channel::<()>(1);
    let finished = Arc::new(tokio::sync::Mutex::new(finished));
    let drain = rig.supervisor.stop().drain;
    let address = rig.service(move |_| {
        let (arrived, finished) = (arrived.clone(), Arc::clone(&finished));
        async move {
            arrived.send(()).await.unwrap();
            finished.lock().await.recv().await;
            http::Response::new(full("late but whole"))
        }
    });
    rig.route(&[address]);
    let mut idle = rig.http1().await;
    let warm = rig.request("GET", "/x%2f", empty());
    assert_eq!(idle.send_request(warm).await.unwrap().status(), StatusCode::BAD_REQUEST);

    let mut client = rig.http1().await;
    let open = client.send_request(rig.request("GET", "/", empty()));
    let answered = async {
        let response = open.await.unwrap();
        text(response).await
    };
    let drained = async {
        arrivals.recv().await.unwrap();
        drain.cancel();
        // The idle connection is closed, and nobody gets a new one.
        while idle.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        while tokio::net::TcpStream::connect(rig.proxy).await.is_ok() {
            tokio::task::yield_now().await;
        }
        finish.send(()).await.unwrap();
    };
    let both = async { tokio::join!(answered, drained).0 };
    assert_eq!(tokio::time::timeout(LONG, both).await.unwrap(), "late but whole");
}

#[tokio::test]
async fn nothing_idle_delays_the_end_of_the_process() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let (mut http1, mut http2) = (rig.http1().await, rig.http2().await);
    let first = http1.send_request(rig.request("GET", "/", empty())).await.unwrap();
    let second = http2.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
    assert_eq!((text(first).await.is_empty(), text(second).await.is_empty()), (false, false));
    let _silent = rig.connect().await;
    rig.supervisor.shutdown();
    // Shorter than any idle time limit of the pools.
    let ended = tokio::time::timeout(Duration::from_secs(2), rig.supervisor.run(LONG)).await;
    assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
}

#[tokio::test]
async fn a_revocation_ends_a_request_that_still_waits_for_its_answer() {
    let rig = Rig::new().await;
    let asked = Arc::new(Notify::new());
    let service_asked = asked.clone();
    rig.route(&[rig.raw_service(move |mut stream| {
        let asked = service_asked.clone();
        async move {
            let _ = read_head(&mut stream).await;
            asked.notify_one();
            // Says nothing until the proxy hangs up.
            let _ = stream.read(&mut [0; 8]).await;
        }
    })]);
    let mut client = rig.connect().await;
    let request = format!("GET / HTTP/1.1\r\n{}Connection: close\r\n\r\n", rig.admitted());
    client.write_all(request.as_bytes()).await.unwrap();
    // An open request may not be let in yet: revoked then, it is refused and not cut.
    tokio::time::timeout(LONG, asked.notified()).await.unwrap();
    let begin = tokio::time::Instant::now();
    rig.revoke();
    let head = tokio::time::timeout(LONG, read_head(&mut client)).await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&head));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_requests_revoked_total 1");
}
