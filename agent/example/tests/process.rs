//! The example service as a process of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Service {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port_file = folder.path().join("port");
        let mut child = Command::new(env!("CARGO_BIN_EXE_blueprint-example-service"))
            .args(["--name", "demo", "--exit-on-stdin-close", "--port-file"])
            .arg(&port_file)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().expect(&line);
        // The line comes before the file, so the file may still be on its way.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !port_file.exists() {
            assert!(Instant::now() < deadline, "no port file");
            std::thread::yield_now();
        }
        assert_eq!(std::fs::read_to_string(&port_file).unwrap(), format!("{port}\n"));
        Self { child, port, _folder: folder }
    }

    /// Sends a request on a connection of its own; gives the head in lower case, and the body.
    fn request(&self, line: &str, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n{headers}\r\n").unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).unwrap().to_lowercase(), body)
    }

    fn get(&self, path: &str) -> (String, String) {
        let (head, body) = self.request(&format!("GET {path}"), "", b"");
        (head, String::from_utf8(body).unwrap())
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                panic!("the service does not end");
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_greeting_names_the_service_and_counts_the_headers() {
    let service = Service::start();
    let (head, body) = service.get("/?x=1");
    assert!(head.starts_with("http/1.1 200 ok") && head.contains("application/json"), "{head}");
    let greeting: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&greeting["service"], &greeting["request_headers"]), (&"demo".into(), &2.into()));
}

#[test]
fn health_and_metrics_are_text() {
    let service = Service::start();
    assert_eq!(service.get("/healthz").1, "ok\n");
    let (_, metrics) = service.get("/metrics");
    assert!(metrics.contains("\nexample_requests_total 2\n"), "{metrics}");
}

#[test]
fn headers_come_back_as_they_were_received() {
    let service = Service::start();
    let (_, body) = service.request("GET /headers", "X-One: a\r\nX-One: b\r\n", b"");
    let headers: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(headers["x-one"], serde_json::json!(["a", "b"]));
}

#[test]
fn a_body_comes_back_with_its_length_and_type() {
    let service = Service::start();
    let sent = vec![7u8; 300_000];
    let headers = format!("content-length: {}\r\ncontent-type: x/y\r\n", sent.len());
    let (head, body) = service.request("POST /echo", &headers, &sent);
    assert!(head.contains("content-length: 300000") && head.contains("content-type: x/y"), "{head}");
    assert_eq!(body, sent);
}

#[test]
fn a_stream_of_bytes_is_as_long_as_asked_for() {
    let service = Service::start();
    for count in [0usize, 1, 16 * 1024, 16 * 1024 + 1, 1_000_000] {
        let (head, body) = service.request(&format!("GET /bytes/{count}"), "", b"");
        assert!(head.contains(&format!("content-length: {count}\r\n")), "{head}");
        assert_eq!(body.len(), count);
    }
}

#[test]
fn a_slow_stream_comes_in_ten_pieces_over_a_second() {
    let service = Service::start();
    let start = Instant::now();
    let (head, body) = service.get("/stream");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(body.matches("piece ").count(), 10);
    assert!(start.elapsed() >= Duration::from_millis(900));
}

#[test]
fn wrong_paths_and_numbers_are_refused_in_json() {
    let service = Service::start();
    for (path, status, code) in [
        ("/none", "404", "not_found"),
        ("/bytes/-1", "400", "bad_request"),
        ("/slow/x", "400", "bad_request"),
    ] {
        let (head, body) = service.get(path);
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(body.contains(code), "{body}");
    }
    assert_eq!(service.get("/slow/1").1, "waited 1 ms\n");
}

#[test]
fn the_end_of_standard_input_ends_it() {
    let mut service = Service::start();
    drop(service.child.stdin.take());
    assert!(service.wait().success());
}

#[test]
fn sigterm_ends_it_even_with_a_request_open() {
    let mut service = Service::start();
    let mut stream = TcpStream::connect(("127.0.0.1", service.port)).unwrap();
    write!(stream, "GET /slow/600000 HTTP/1.1\r\nhost: demo\r\n\r\n").unwrap();
    kill(Pid::from_raw(service.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(service.wait().success());
}
