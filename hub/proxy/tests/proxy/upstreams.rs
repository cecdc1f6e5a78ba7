//! Targets that die, fail, are slow or are drained, under requests that go on all the while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use blueprint_common_types::AgentId;
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::upstream::UpstreamSettings;
use futures_util::future::join_all;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::rig::{Body, LONG, Rig, closed_port, empty, full, mirror, read_head, text};

/// A target whose answers are counted and can be changed while it runs.
struct Backend {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
    is_bad: Arc<AtomicBool>,
}

impl Backend {
    fn hits(&self) -> usize {
        self.hits.swap(0, Ordering::SeqCst)
    }

    fn turn(&self, is_bad: bool) {
        self.is_bad.store(is_bad, Ordering::SeqCst);
    }

    /// Answers with 200, and with 503 while it is bad.
    fn polite(rig: &Rig) -> Self {
        let (hits, is_bad) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, bad) = (Arc::clone(&hits), Arc::clone(&is_bad));
        let address = rig.service(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::new(full("well"));
            if bad.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            async { response }
        });
        Self { address, hits, is_bad }
    }

    /// Answers one request per connection with 200, and while it is bad reads it and closes.
    fn abrupt(rig: &Rig) -> Self {
        let (hits, is_bad) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, bad) = (Arc::clone(&hits), Arc::clone(&is_bad));
        let address = rig.raw_service(move |mut stream| {
            let (counter, bad) = (Arc::clone(&counter), Arc::clone(&bad));
            async move {
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
                counter.fetch_add(1, Ordering::SeqCst);
                if !bad.load(Ordering::SeqCst) {
                    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nwell";
                    let _ = stream.write_all(answer).await;
                }
            }
        });
        Self { address, hits, is_bad }
    }
}

impl Rig {
    /// Routes to these, each on a node of its own: the first on node 1, and so on.
    fn spread(&self, backends: &[&Backend]) {
        let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
        self.route(&addresses);
    }

    fn share(&self, upstream: UpstreamSettings) {
        self.settle(ServiceSettings { upstream, ..ServiceSettings::default() });
    }

    /// Status of one request on a connection of its own.
    async fn status(&self, method: &str, body: Body) -> StatusCode {
        let mut client = self.http1().await;
        let response = client.send_request(self.request(method, "/", body)).await.unwrap();
        let status = response.status();
        text(response).await;
        status
    }

    /// How many of `count` requests, sent by `clients` at once, were answered with 200.
    async fn fine(&self, clients: usize, count: usize, method: &str) -> usize {
        let each = (0..clients).map(|_| async move {
            let mut client = self.http1().await;
            let mut fine = 0;
            for _ in 0..count / clients {
                client.ready().await.unwrap();
                let response = client.send_request(self.request(method, "/", empty())).await.unwrap();
                fine += usize::from(response.status() == StatusCode::OK);
                text(response).await;
            }
            fine
        });
        join_all(each).await.into_iter().sum()
    }
}

fn node(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

#[tokio::test]
async fn a_dying_target_loses_no_idempotent_request() {
    let rig = Rig::new().await;
    let (dying, live) = (Backend::abrupt(&rig), Backend::abrupt(&rig));
    rig.spread(&[&dying, &live]);
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
        let fate = async {
            while dying.hits.load(Ordering::SeqCst) < 10 {
                tokio::task::yield_now().await;
            }
            dying.turn(true);
        };
        dying.turn(false);
        dying.hits();
        let (fine, ()) = tokio::join!(rig.fine(8, 200, method.as_str()), fate);
        assert_eq!(fine, 200, "{method}");
        // What was learned of it is forgotten with the target.
        rig.spread(&[&live]);
        assert_eq!(rig.status("GET", empty()).await, StatusCode::OK);
        rig.spread(&[&dying, &live]);
    }
    assert!(!rig.metrics.encode().contains("hub_proxy_upstream_retries_total 0\n"));
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_not() {
    let rig = Rig::new().await;
    let (one, other) = (Backend::abrupt(&rig), Backend::abrupt(&rig));
    one.turn(true);
    other.turn(true);
    rig.spread(&[&one, &other]);
    for (method, body, hits) in
        [("POST", empty(), 1), ("PATCH", empty(), 1), ("PUT", full("once"), 1), ("PUT", empty(), 2)]
    {
        assert_eq!(rig.status(method, body).await, StatusCode::BAD_GATEWAY);
        assert_eq!(one.hits() + other.hits(), hits, "{method}");
    }
    rig.spread(&[&one]);
    assert_eq!(rig.status("GET", empty()).await, StatusCode::BAD_GATEWAY);
    assert_eq!(one.hits(), 1, "nor by the same target");
}

#[tokio::test]
async fn what_was_taken_back_meanwhile_is_not_sent_again() {
    let rig = Rig::new().await;
    let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (counter, close) = (Arc::clone(&arrived), Arc::clone(&gate));
    let serve = move |mut stream: tokio::net::TcpStream| {
        let (counter, close) = (Arc::clone(&counter), Arc::clone(&close));
        async move {
            read_head(&mut stream).await;
            counter.add_permits(1);
            close.acquire().await.unwrap().forget();
        }
    };
    rig.route(&[rig.raw_service(serve.clone()), rig.raw_service(serve)]);
    let revoked = async {
        arrived.acquire().await.unwrap().forget();
        rig.revoke();
        gate.add_permits(2);
    };
    let (status, ()) = tokio::join!(rig.status("GET", empty()), revoked);
    assert_eq!((status, arrived.available_permits()), (StatusCode::UNAUTHORIZED, 0));
}

#[tokio::test]
async fn a_target_that_fails_is_ejected_and_comes_back() {
    for make in [Backend::polite, Backend::abrupt] {
        let rig = Rig::new().await;
        let (bad, good) = (make(&rig), make(&rig));
        rig.spread(&[&bad, &good]);
        bad.turn(true);
        rig.fine(1, 100, "GET").await;
        assert_eq!(bad.hits(), 5, "five in a row and then nothing");
        assert_eq!(rig.fine(4, 100, "GET").await, 100);
        assert_eq!(bad.hits(), 0);
        rig.assert_metric("hub_proxy_upstream_ejections_total 1");

        // Ten seconds, and somebody finds out that it is well again.
        bad.turn(false);
        let back = async {
            while bad.hits() == 0 {
                assert_eq!(rig.status("GET", empty()).await, StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LONG, back).await.unwrap();
        assert_eq!(rig.fine(1, 100, "GET").await, 100);
        assert!(bad.hits() > 25, "it has its share again");
    }
}

#[tokio::test]
async fn weights_move_traffic_in_proportion() {
    let rig = Rig::new().await;
    let (heavy, light) = (Backend::polite(&rig), Backend::polite(&rig));
    rig.spread(&[&heavy, &light]);
    rig.share(UpstreamSettings { weights: [(node(2), 25)].into(), ..UpstreamSettings::default() });
    assert_eq!(rig.fine(1, 1000, "GET").await, 1000);
    let (of_heavy, of_light) = (heavy.hits(), light.hits());
    assert_eq!(of_heavy + of_light, 1000);
    // 200 of 1000 at four to one; five standard deviations are 63.
    assert!(of_light.abs_diff(200) < 63, "{of_heavy} and {of_light}");

    rig.share(UpstreamSettings { weights: [(node(1), 0)].into(), ..UpstreamSettings::default() });
    assert_eq!(rig.fine(4, 100, "GET").await, 100);
    assert_eq!((heavy.hits(), light.hits()), (0, 100), "no weight, no requests");
}

#[tokio::test]
async fn drain_lets_open_requests_finish() {
    let rig = Rig::new().await;
    let (arrived, finish) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (counter, gate) = (Arc::clone(&arrived), Arc::clone(&finish));
    let slow = rig.service(move |_| {
        let (counter, gate) = (Arc::clone(&counter), Arc::clone(&gate));
        async move {
            counter.add_permits(1);
            gate.acquire().await.unwrap().forget();
            Response::new(full("late but whole"))
        }
    });
    let other = Backend::polite(&rig);
    rig.route(&[slow]);
    let mut client = rig.http1().await;
    let open = client.send_request(rig.request("GET", "/", empty()));
    let answered = async { text(open.await.unwrap()).await };
    let drained = async {
        arrived.acquire().await.unwrap().forget();
        rig.route(&[slow, other.address]);
        rig.share(UpstreamSettings { drained: [node(1)].into(), ..UpstreamSettings::default() });
        assert_eq!(rig.fine(4, 40, "GET").await, 40);
        assert_eq!((other.hits(), arrived.available_permits()), (40, 0));
        finish.add_permits(1);
    };
    let both = async { tokio::join!(answered, drained).0 };
    assert_eq!(tokio::time::timeout(LONG, both).await.unwrap(), "late but whole");

    rig.route(&[slow]);
    let mut client = rig.http1().await;
    let refused = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(refused).await.contains("drained"), "it says why");
}

#[tokio::test]
async fn a_hidden_service_is_nobodys_and_what_was_open_is_cut() {
    let rig = Rig::new().await;
    let arrived = Arc::new(Semaphore::new(0));
    let counter = Arc::clone(&arrived);
    rig.route(&[rig.raw_service(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
            stream.write_all(head).await.unwrap();
            counter.add_permits(1);
            let _ = stream.readable().await;
        }
    })]);
    let mut client = rig.http1().await;
    let open = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
    rig.settle(ServiceSettings { hidden: true, ..ServiceSettings::default() });
    assert_eq!(rig.status("GET", empty()).await, StatusCode::NOT_FOUND);
    let cut = tokio::time::timeout(Duration::from_secs(3), open.into_body().collect()).await.unwrap();
    assert!(cut.is_err(), "a torn stream is no whole one");
    rig.settle(ServiceSettings::default());
    assert_eq!(arrived.available_permits(), 1);
}

#[tokio::test]
async fn a_busy_target_takes_so_many_and_no_more() {
    let rig = Rig::new().await;
    let (gate, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (opens, counts) = (Arc::clone(&gate), Arc::clone(&arrived));
    let slow = rig.service(move |_| {
        let (opens, counts) = (Arc::clone(&opens), Arc::clone(&counts));
        async move {
            counts.add_permits(1);
            opens.acquire().await.unwrap().forget();
            Response::new(full("done"))
        }
    });
    rig.route(&[slow]);
    rig.share(UpstreamSettings { max_open_per_target: 3, ..UpstreamSettings::default() });
    let held = join_all((0..3).map(|_| rig.status("GET", empty())));
    let beyond = async {
        arrived.acquire_many(3).await.unwrap().forget();
        let mut client = rig.http1().await;
        let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "2");
        assert!(text(response).await.contains("targets_busy"));
        gate.add_permits(4);
    };
    let (held, ()) = tokio::join!(held, beyond);
    assert_eq!(held, [StatusCode::OK; 3]);
    assert_eq!(rig.status("GET", empty()).await, StatusCode::OK);
}

#[tokio::test]
async fn the_circuit_opens_and_closes() {
    let rig = Rig::new().await;
    let closed = closed_port().await;
    rig.route(&[closed]);
    let mut codes = Vec::new();
    for _ in 0..12 {
        let mut client = rig.http1().await;
        let response = client.send_request(rig.request("POST", "/", full("body"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        codes.push(text(response).await);
    }
    assert!(codes[..10].iter().all(|code| code.contains("target_unreachable")), "{codes:?}");
    assert!(codes[10..].iter().all(|code| code.contains("circuit_open")), "{codes:?}");
    rig.assert_metric("hub_proxy_upstream_circuits_opened_total 1");

    // The service comes up at the same address; at the next probe that is found out.
    let listener = tokio::net::TcpListener::bind(closed).await.unwrap();
    let spawner = rig.spawner.clone();
    rig.spawner.spawn("test service", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawner.spawn("test service connection", async move {
                read_head(&mut stream).await;
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
            });
        }
    });
    let up = async {
        while rig.status("GET", empty()).await != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), up).await.unwrap();
    assert_eq!(rig.fine(4, 40, "GET").await, 40, "closed for good");
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let rig = Rig::new().await;
    let (one, other) = (Backend::abrupt(&rig), Backend::abrupt(&rig));
    one.turn(true);
    other.turn(true);
    rig.spread(&[&one, &other]);
    assert_eq!(rig.fine(1, 200, "GET").await, 0);
    let hits = one.hits() + other.hits();
    // A fifth of 200, thirty more, and thirty for each further window of a slow machine.
    assert!((200..=300).contains(&hits), "{hits} for 200 requests");
    assert!(!rig.metrics.encode().contains("hub_proxy_upstream_retries_over_budget_total 0\n"));
}

#[tokio::test]
async fn the_head_of_an_answer_has_a_time_limit_only_where_one_is_set() {
    let rig = Rig::new().await;
    let slow = rig.service(|request| async move {
        let wait = if request.uri().path() == "/slow" { 2500 } else { 0 };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        mirror(request).await
    });
    rig.route(&[slow]);
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("GET", "/slow", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "no limit by default");
    text(response).await;

    rig.share(UpstreamSettings { response_header_timeout_secs: 1, ..UpstreamSettings::default() });
    for body in [empty(), full("body")] {
        client.ready().await.unwrap();
        let response = client.send_request(rig.request("PUT", "/slow", body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert!(text(response).await.contains("upstream_timeout"));
    }
    client.ready().await.unwrap();
    let response = client.send_request(rig.request("GET", "/quick", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_slow_upload_is_not_a_slow_answer() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    rig.share(UpstreamSettings { response_header_timeout_secs: 1, ..UpstreamSettings::default() });
    let mut stream = rig.connect().await;
    let head = format!("POST / HTTP/1.1\r\n{}Connection: close\r\nContent-Length: 8\r\n\r\n", rig.admitted());
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in ["slow", "ly"] {
        tokio::time::sleep(Duration::from_millis(900)).await;
        stream.write_all(part.as_bytes()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    stream.write_all(b"!!").await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("slowly!!"), "{answer}");
}

async fn read_to_end(stream: &mut tokio::net::TcpStream) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    answer
}
