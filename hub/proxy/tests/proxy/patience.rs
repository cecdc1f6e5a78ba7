//! What clients may do before, between and during requests; each limit with what it must not cut.

use std::time::Duration;

use blueprint_hub_proxy::Pressure;
use blueprint_hub_proxy_core::pace::LeastRate;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RESET, RawHttp2, SETTINGS,
    WINDOW_UPDATE, frame,
};
use crate::rig::{Body, BoxError, LONG, Rig, empty, full, mirror, read_head, text};

const SHORT: Duration = Duration::from_millis(300);

/// A body of which pieces are sent as a test likes.
fn channel() -> (mpsc::Sender<&'static str>, Body) {
    let (sender, receiver) = mpsc::channel::<&'static str>(4);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

async fn end_of(stream: &mut tokio::net::TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap();
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_connection_may_idle_for_longer_than_a_head_may_take_and_then_ends_without_a_word() {
    let rig = Rig::with(|config| {
        config.header_timeout = SHORT;
        config.idle_timeout = SHORT * 4;
    })
    .await;
    rig.route(&[rig.service(|_| async { Response::new(empty()) })]);
    let mut client = rig.connect().await;
    let request = format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted());
    for _ in 0..3 {
        client.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
        sleep(SHORT * 2).await;
    }
    let begin = Instant::now();
    let rest = end_of(&mut client).await;
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    assert!(begin.elapsed() < SHORT * 4, "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_head\"} 0");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_refused_in_words_also_as_the_second_one() {
    let rig = Rig::with(|config| config.header_timeout = SHORT).await;
    rig.route(&[rig.service(mirror)]);
    let mut client = rig.connect().await;
    let request = format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted());
    client.write_all(request.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    sleep(SHORT * 2).await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let begin = Instant::now();
    // A byte now and then does not help.
    let (mut reader, mut writer) = client.into_split();
    let dribble = async {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = dribble => {}
        _ = reader.read_to_end(&mut answer) => {}
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("HTTP/1.1 408 ") && answer.contains("\"slow_head\""), "{answer}");
    assert!(answer.contains("x-request-id: "), "{answer}");
    assert!(begin.elapsed() < SHORT * 3, "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_head\"} 1");
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"slow_head\"} 1");
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_in_fields_over_both_versions_of_http() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let many: Vec<(String, String)> = (0..100).map(|n| (format!("x-field-{n}"), "1".to_owned())).collect();
    let long = vec![("x-long".to_owned(), "a".repeat(16 * 1024))];
    let fits = vec![("x-long".to_owned(), "a".repeat(15 * 1024))];
    for (extra, status) in [(&many, 431), (&long, 431), (&fits, 200)] {
        let mut http1 = rig.http1().await;
        let mut http2 = rig.http2().await;
        let mut requests = [rig.request("GET", "/", empty()), rig.request("GET", "http://hub/", empty())];
        for request in &mut requests {
            for (name, value) in extra {
                let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                request.headers_mut().append(name, value.parse().unwrap());
            }
        }
        let [first, second] = requests;
        for response in [http1.send_request(first).await.unwrap(), http2.send_request(second).await.unwrap()]
        {
            assert_eq!(response.status().as_u16(), status, "{} fields", extra.len());
            assert!(response.headers().contains_key("x-request-id"));
            let answer = text(response).await;
            assert_eq!(answer.contains("\"headers_too_large\""), status == 431, "{answer}");
        }
    }
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"headers_too_large\"} 4");
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_and_one_that_the_service_does_not_want_yet_is_not() {
    let least = LeastRate { bytes_per_second: 1024, over: Duration::from_secs(1) };
    let rig = Rig::with(|config| config.least_rate = least).await;
    rig.route(&[rig.service(mirror)]);
    for (framing, mut piece) in
        [("Content-Length: 100000", "x"), ("Transfer-Encoding: chunked", "1\r\nx\r\n")]
    {
        let client = rig.connect().await;
        let (mut reader, mut writer) = client.into_split();
        let head = format!("POST / HTTP/1.1\r\n{}{framing}\r\n\r\n", rig.admitted());
        writer.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let dribble = async {
            while writer.write_all(std::mem::take(&mut piece).as_bytes()).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
                piece = if framing.starts_with('C') { "x" } else { "1\r\nx\r\n" };
            }
        };
        let both = async { tokio::join!(dribble, reader.read_to_end(&mut answer)) };
        let _ = timeout(LONG, both).await.expect("a trickling body was not cut");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("HTTP/1.1 408 ") && answer.contains("\"slow_body\""), "{framing}: {answer}");
    }
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"slow_body\"} 2");

    let lazy = rig.raw_service(|mut stream| async move {
        read_head(&mut stream).await;
        sleep(Duration::from_secs(3)).await;
        let mut got = 0;
        let mut sink = vec![0; 64 << 10];
        while got < 4 << 20 {
            got += stream.read(&mut sink).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    });
    rig.route(&[lazy]);
    let mut client = rig.http1().await;
    let body = vec![b'x'; (4 << 20) + (64 << 10)];
    let response = timeout(LONG, client.send_request(rig.request("POST", "/", full(body)))).await;
    assert!(matches!(response.unwrap(), Ok(response) if response.status() == StatusCode::NO_CONTENT));
}

#[tokio::test]
async fn the_two_halves_of_a_conversation_may_be_silent() {
    let least = LeastRate { bytes_per_second: 1024, over: SHORT };
    let rig = Rig::with(|config| {
        config.least_rate = least;
        config.header_timeout = SHORT;
        config.idle_timeout = SHORT;
        config.reader_timeout = SHORT;
    })
    .await;
    // Answers at once, and sends back what comes when it comes.
    let echo = rig.service(|request: http::Request<hyper::body::Incoming>| async move {
        let body = request.into_body().map_err(|error| -> BoxError { error.into() });
        Response::new(body.boxed_unsync())
    });
    rig.route(&[echo]);
    for version in [1, 2] {
        let (sender, body) = channel();
        let response = if version == 1 {
            rig.http1().await.send_request(rig.request("POST", "/", body)).await
        } else {
            rig.http2().await.send_request(rig.request("POST", "http://hub/", body)).await
        };
        let mut answer = response.unwrap().into_body();
        for piece in ["one", "two", "three"] {
            sleep(SHORT * 3).await;
            sender.send(piece).await.unwrap();
            let got = timeout(LONG, answer.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(got.into_data().unwrap(), piece, "HTTP/{version}");
        }
        drop(sender);
        let end = timeout(LONG, answer.frame()).await.unwrap();
        let is_end = end.is_none_or(|last| last.unwrap().into_data().unwrap().is_empty());
        assert!(is_end, "HTTP/{version}");
    }
}

/// A service that sends for as long as it can, and tells when it cannot.
fn endless(rig: &Rig) -> (std::net::SocketAddr, mpsc::Receiver<()>) {
    let (ended, ends) = mpsc::channel(4);
    let address = rig.raw_service(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
            while stream.write_all(&[7; 16 << 10]).await.is_ok() {}
            let _ = ended.send(()).await;
        }
    });
    (address, ends)
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_and_frees_the_service() {
    let rig = Rig::with(|config| config.reader_timeout = SHORT).await;
    let (address, mut ends) = endless(&rig);
    rig.route(&[address]);
    let mut http1 = rig.connect().await;
    http1.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted()).as_bytes()).await.unwrap();
    timeout(LONG, ends.recv()).await.expect("the service is still held").unwrap();
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_reader\"} 1");

    // Over HTTP/2 nothing waits at the socket: the client just never opens the window of its stream.
    for window in [0, 1000] {
        let mut http2 = RawHttp2::open(&rig, window).await;
        let request = RawHttp2::request(&rig, "GET", "/");
        assert!(http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request)).await);
        timeout(LONG, ends.recv()).await.expect("the service is still held").unwrap();
        while let Some(frame) = http2.next().await {
            assert!(frame.kind != DATA || frame.payload.len() <= 1000);
        }
    }
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_reader\"} 3");
    rig.assert_metric("hub_proxy_requests_open 0");
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_reads_is_served() {
    let rig = Rig::with(|config| config.reader_timeout = SHORT).await;
    let body = vec![b'x'; 3 << 20];
    rig.route(&[rig.service(move |_| {
        let body = body.clone();
        async move { Response::new(full(body)) }
    })]);
    for version in [1, 2] {
        let response = if version == 1 {
            rig.http1().await.send_request(rig.request("GET", "/", empty())).await
        } else {
            rig.http2().await.send_request(rig.request("GET", "http://hub/", empty())).await
        };
        let mut answer = response.unwrap().into_body();
        let mut length = 0;
        while let Some(frame) = answer.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(length, 3 << 20, "HTTP/{version}");
    }
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_reader\"} 0");
}

#[tokio::test]
async fn an_idle_connection_of_http2_ends_though_it_answers_pings() {
    let rig = Rig::with(|config| config.idle_timeout = SHORT).await;
    rig.route(&[rig.service(mirror)]);
    let mut client = rig.http2().await;
    let response = client.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
    assert!(text(response).await.starts_with("GET /"));
    let closed = async {
        while client.ready().await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(3), closed).await.expect("the connection idles for ever");
}

#[tokio::test]
async fn no_flood_of_frames_lasts_and_nobody_else_notices() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let mut other = rig.http2().await;
    let flood: [(&str, u8, u8, u32, &[u8]); 6] = [
        ("ping", PING, 0, 0, &[0; 8]),
        ("settings", SETTINGS, 0, 0, &[]),
        ("priority", PRIORITY, 0, 3, &[0, 0, 0, 0, 1]),
        ("window", WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ("unknown", 99, 0, 0, b"?"),
        ("goaway", GOAWAY, 0, 0, &[0; 8]),
    ];
    for (name, kind, flags, stream, payload) in flood {
        let mut client = RawHttp2::open(&rig, 65_535).await;
        let bytes = frame(kind, flags, stream, payload).repeat(10);
        let rounds = client.flood(5000, |_| bytes.clone()).await;
        assert!(rounds < 5000, "{name}: {rounds} rounds passed");
        let response = other.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");
    }
    // Empty pieces of a body that does not end.
    let mut client = RawHttp2::open(&rig, 65_535).await;
    let request = RawHttp2::request(&rig, "POST", "/");
    assert!(client.send(&frame(HEADERS, END_HEADERS, 1, &request)).await);
    let rounds = client.flood(5000, |_| frame(DATA, 0, 1, &[]).repeat(10)).await;
    assert!(rounds < 5000, "empty data: {rounds} rounds passed");
    // A header list without an end, by the library's own count.
    let mut client = RawHttp2::open(&rig, 65_535).await;
    assert!(client.send(&frame(HEADERS, 0, 1, &request)).await);
    let rounds = client.flood(5000, |_| frame(CONTINUATION, 0, 1, &[])).await;
    assert!(rounds < 5000, "continuation: {rounds} rounds passed");
    let cut = cut_count(&rig, "frame_flood");
    assert!(cut >= 5, "{cut} floods were seen");
}

fn cut_count(rig: &Rig, reason: &str) -> u64 {
    let text = rig.metrics.encode();
    let name = format!("hub_proxy_connections_cut_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn streams_that_are_reset_as_fast_as_they_are_opened_end_the_connection() {
    let rig = Rig::new().await;
    let (seen, mut arrivals) = mpsc::channel(100_000);
    rig.route(&[rig.service(move |request| {
        let _ = seen.try_send(());
        mirror(request)
    })]);
    let mut client = RawHttp2::open(&rig, 65_535).await;
    let request = RawHttp2::request(&rig, "GET", "/");
    let rounds = client
        .flood(20_000, |round| {
            let stream = u32::try_from(round).unwrap() * 2 + 1;
            let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, stream, &request);
            bytes.extend(frame(RESET, 0, stream, &[0, 0, 0, 8]));
            bytes
        })
        .await;
    assert!(rounds < 20_000, "{rounds} streams were reset");
    let mut reached = 0;
    while arrivals.try_recv().is_ok() {
        reached += 1;
    }
    assert!(reached <= 2000, "{reached} requests of a flood reached the service");
    let mut other = rig.http2().await;
    let response = other.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    rig.assert_metric("hub_proxy_requests_open 0");
}

#[tokio::test]
async fn a_head_in_pieces_has_as_long_as_one_head_over_http2_too() {
    let rig = Rig::with(|config| config.header_timeout = SHORT).await;
    let mut client = RawHttp2::open(&rig, 65_535).await;
    let request = RawHttp2::request(&rig, "GET", "/");
    assert!(client.send(&frame(HEADERS, END_STREAM, 1, &request)).await);
    let begin = Instant::now();
    while let Some(frame) = client.next().await {
        assert_ne!(frame.kind, HEADERS, "an answer to half a request");
    }
    assert!(begin.elapsed() < SHORT * 4, "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"slow_head\"} 1");
}

#[tokio::test]
async fn one_connection_has_a_hundred_streams_and_no_more() {
    let rig = Rig::new().await;
    let silent = rig.raw_service(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    rig.route(&[silent]);
    let mut client = RawHttp2::open(&rig, 65_535).await;
    let request = RawHttp2::request(&rig, "GET", "/");
    let settings = client.next().await.unwrap();
    assert_eq!(settings.kind, SETTINGS);
    assert!(settings.payload.chunks(6).any(|pair| pair == [0, 3, 0, 0, 0, 100]), "{:?}", settings.payload);
    assert!(client.send(&frame(SETTINGS, 0x1, 0, &[])).await);
    for number in 0..101 {
        assert!(client.send(&frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &request)).await);
    }
    let refused = loop {
        let found = client.next().await.expect("the connection ended");
        if found.kind == RESET {
            break found;
        }
    };
    assert_eq!((refused.stream, refused.payload.as_slice()), (201, &[0, 0, 0, 7][..]), "{}", refused.flags);
}

#[tokio::test]
async fn short_of_memory_the_hub_takes_nothing_new_until_it_has_some_again() {
    let pressure = Pressure::default();
    let rig = Rig::with(|config| config.pressure = pressure.clone()).await;
    let (address, _ends) = endless(&rig);
    rig.route(&[address]);
    let (mut http1, mut http2) = (rig.http1().await, rig.http2().await);
    let mut open =
        rig.http1().await.send_request(rig.request("GET", "/", empty())).await.unwrap().into_body();
    rig.route(&[rig.service(mirror)]);

    pressure.set(true);
    let first = http1.send_request(rig.request("GET", "/", empty())).await.unwrap();
    let second = http2.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
    for response in [first, second] {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
        assert!(text(response).await.contains("\"overloaded\""));
    }
    assert_eq!(end_of(&mut rig.connect().await).await, "");
    assert!(open.frame().await.unwrap().is_ok(), "what is open goes on");
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"overloaded\"} 1");

    pressure.set(false);
    let response = rig.http1().await.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_revocation_also_cuts_a_client_that_reads_slowly() {
    let rig = Rig::new().await;
    let (address, _ends) = endless(&rig);
    rig.route(&[address]);
    let mut client = rig.connect().await;
    client.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted()).as_bytes()).await.unwrap();
    let mut sink = vec![0; 16 << 10];
    client.read_exact(&mut sink).await.unwrap();
    sleep(SHORT).await;
    rig.revoke();
    let begin = Instant::now();
    while !rig.metrics.encode().contains("hub_proxy_requests_revoked_total 1\n") {
        // The service always has more: nobody ever waits for it.
        client.read_exact(&mut sink).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        assert!(begin.elapsed() < Duration::from_secs(4), "the client is still served");
    }
}

#[tokio::test]
async fn hundreds_of_slow_clients_are_gone_soon_and_hold_nobody_up() {
    let rig = Rig::with(|config| config.header_timeout = Duration::from_secs(1)).await;
    rig.route(&[rig.service(mirror)]);
    let began = Instant::now();
    let (done, mut ends) = mpsc::channel(600);
    for number in 0..600 {
        let beginning = ["", "G", "GET / HTTP/1.1\r\nX: ", "PRI * HTTP/2.0\r\n"][number % 4];
        let mut stream = rig.connect().await;
        let done = done.clone();
        rig.spawner.spawn("slow client", async move {
            let _ = stream.write_all(beginning.as_bytes()).await;
            let mut answer = Vec::new();
            // A byte now and then, for as long as the hub takes it.
            loop {
                match timeout(Duration::from_millis(200), stream.read_buf(&mut answer)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => break,
                    Err(_) if beginning.len() > 4 => {
                        let _ = stream.write_all(b"x").await;
                    }
                    Err(_) => {}
                }
            }
            let _ = done.send(()).await;
        });
    }
    drop(done);
    let mut client = rig.http1().await;
    let mut slowest = Duration::ZERO;
    let mut gone = 0;
    while gone < 600 {
        let begin = Instant::now();
        let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        text(response).await;
        slowest = slowest.max(begin.elapsed());
        while ends.try_recv().is_ok() {
            gone += 1;
        }
        sleep(Duration::from_millis(5)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{} slow clients are still there", 600 - gone);
    }
    assert!(slowest < Duration::from_millis(500), "a request took {slowest:?}");
    rig.assert_metric("hub_proxy_connections_open 1");
}

#[tokio::test]
async fn errors_that_a_client_provokes_are_counted_like_resets_and_a_header_bomb_stays_small() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let request = RawHttp2::request(&rig, "GET", "/");
    let mut client = RawHttp2::open(&rig, 65_535).await;
    let rounds = client
        .flood(20_000, |round| {
            let stream = u32::try_from(round).unwrap() * 2 + 1;
            let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, stream, &request);
            // A window that grows by nothing makes the hub reset the stream (CVE-2025-8671).
            bytes.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
            bytes
        })
        .await;
    assert!(rounds < 20_000, "{rounds} streams were reset");

    // One field of 4000 bytes in the table of the connection, and two thousand references to it.
    let mut bomb = vec![0x40, 1, b'x', 0x7f];
    bomb.extend([0xa1, 0x1e]);
    bomb.extend(vec![b'a'; 4000]);
    bomb.extend(vec![0xbe; 2000]);
    let mut client = RawHttp2::open(&rig, 65_535).await;
    assert!(
        client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &[request.clone(), bomb].concat())).await
    );
    loop {
        let Some(found) = client.next().await else { break };
        if found.kind == RESET || found.kind == GOAWAY {
            break;
        }
        // Refused in words: 431.
        if found.kind == HEADERS {
            assert!(found.flags & END_STREAM != 0 || !found.payload.is_empty());
            break;
        }
    }
    let mut other = rig.http2().await;
    let response = other.send_request(rig.request("GET", "http://hub/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_call_whose_messages_are_held_back_has_more_time_than_a_page() {
    let rig = Rig::with(|config| config.reader_timeout = SHORT).await;
    // Speaks HTTP/2 without a client of it: any answer whose kind is gRPC's will do.
    rig.route(&[rig.service(|_| async {
        let mut response = Response::new(full(vec![7; 100_000]));
        response.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        response
    })]);
    let mut client = RawHttp2::open(&rig, 1000).await;
    let request = RawHttp2::request(&rig, "GET", "/");
    assert!(client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request)).await);
    sleep(SHORT * 3).await;
    assert!(client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0])).await);
    let mut got = 0;
    while got < 60_000 {
        let found = client.next().await.unwrap();
        assert!(found.kind != RESET && found.kind != GOAWAY, "the call was cut");
        got += if found.kind == DATA { found.payload.len() } else { 0 };
    }
}
