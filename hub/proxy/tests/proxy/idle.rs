//! Connections that idle for longer than the HTTP library keeps its buffers for them.

use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{LONG, Rig, empty, mirror};

/// Longer than a connection has to be quiet before it is taken from the library.
const QUIET: Duration = Duration::from_millis(1400);

/// Reads one answer with its body, of which the length is told.
async fn answer(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(timeout(LONG, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(said).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    timeout(LONG, stream.read_exact(&mut body)).await.unwrap().unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn a_connection_that_was_quiet_serves_what_comes_then() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let mut client = rig.connect().await;
    let get = format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted());
    let post = format!("POST / HTTP/1.1\r\n{}Content-Length: 5\r\n\r\nhello", rig.admitted());
    client.write_all(get.as_bytes()).await.unwrap();
    assert!(answer(&mut client).await.starts_with("http/1.1 200 "));
    sleep(QUIET).await;
    // A head in two pieces, with as long a silence between them.
    let (first, rest) = post.split_at(20);
    client.write_all(first.as_bytes()).await.unwrap();
    sleep(QUIET).await;
    client.write_all(rest.as_bytes()).await.unwrap();
    let said = answer(&mut client).await;
    assert!(said.starts_with("http/1.1 200 ") && said.contains("hello"), "{said}");
    sleep(QUIET).await;
    // Two at once, and the beginning of a third.
    client.write_all(format!("{get}{post}GET").as_bytes()).await.unwrap();
    assert!(answer(&mut client).await.starts_with("http/1.1 200 "));
    assert!(answer(&mut client).await.contains("hello"));
    sleep(QUIET).await;
    client.write_all(get.strip_prefix("GET").unwrap().as_bytes()).await.unwrap();
    assert!(answer(&mut client).await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn what_was_quiet_is_guarded_as_before() {
    let rig = Rig::with(|config| config.header_timeout = Duration::from_secs(2)).await;
    rig.route(&[rig.service(|_| async { Response::new(empty()) })]);
    let get = format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted());
    let both = format!(
        "GET / HTTP/1.1\r\n{}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        rig.admitted()
    );
    for (next, status) in [(both.as_str(), "400"), ("GET / HTTP/1.1\r\n", "408")] {
        let mut client = rig.connect().await;
        client.write_all(get.as_bytes()).await.unwrap();
        assert!(answer(&mut client).await.starts_with("http/1.1 200 "));
        sleep(QUIET).await;
        client.write_all(next.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(LONG, client.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
    }
}

#[tokio::test]
async fn a_connection_that_is_quiet_for_too_long_ends_and_so_it_does_with_the_process() {
    let rig = Rig::with(|config| config.idle_timeout = Duration::from_secs(3)).await;
    rig.route(&[rig.service(mirror)]);
    let get = format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted());
    let mut client = rig.connect().await;
    client.write_all(get.as_bytes()).await.unwrap();
    answer(&mut client).await;
    let begin = Instant::now();
    assert_eq!(timeout(LONG, client.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    let took = begin.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(5)).contains(&took), "{took:?}");

    let mut client = rig.connect().await;
    client.write_all(get.as_bytes()).await.unwrap();
    answer(&mut client).await;
    sleep(QUIET).await;
    rig.supervisor.shutdown();
    let ended = timeout(Duration::from_secs(1), rig.supervisor.run(LONG)).await;
    assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
    assert_eq!(timeout(LONG, client.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_was_busy_for_a_while_ends_as_one_does_that_was_not() {
    let rig = Rig::with(|config| config.idle_timeout = Duration::from_secs(2)).await;
    rig.route(&[rig.service(mirror)]);
    let mut client = rig.connect().await;
    // The last one while a timer of an earlier one runs, which ends soon.
    for _ in 0..6 {
        client.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted()).as_bytes()).await.unwrap();
        assert!(answer(&mut client).await.starts_with("http/1.1 200 "));
        sleep(Duration::from_millis(300)).await;
    }
    let begin = Instant::now();
    assert_eq!(timeout(LONG, client.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    let took = begin.elapsed();
    assert!((Duration::from_millis(1600)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn an_answer_that_takes_long_is_no_silence() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(|request| async {
        sleep(QUIET * 2).await;
        mirror(request).await
    })]);
    let mut client = rig.connect().await;
    for _ in 0..2 {
        client.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", rig.admitted()).as_bytes()).await.unwrap();
        assert!(answer(&mut client).await.starts_with("http/1.1 200 "));
    }
}
