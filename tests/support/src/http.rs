//! Requests over HTTP/1.1 by hand, so that a test sees what is on the wire; `curl` for TLS and HTTP/2.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{Host, Launch};

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;

/// A request. `Host`, `Connection: close` and `Content-Length` are added unless given.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// An answer, its body put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// Its header lines in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// `GET path`.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Adds a header line as it stands.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Authorization: Bearer TOKEN`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it to an address of this machine. Each single read or write may last `within`.
    ///
    /// # Errors
    ///
    /// Fails where nothing answers in time or the answer is no HTTP.
    pub fn send(&self, to: SocketAddr, within: Duration) -> Result<Response> {
        let stream =
            TcpStream::connect_timeout(&to, within).with_context(|| format!("cannot connect to {to}"))?;
        self.over_tcp(stream, within)
    }

    /// Sends it from a host of a lab.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn send_from(&self, host: &Host, to: SocketAddr, within: Duration) -> Result<Response> {
        self.over_tcp(host.connect(to, within)?, within)
    }

    /// Sends it to a Unix socket.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn send_unix(&self, socket: &Path, within: Duration) -> Result<Response> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        self.exchange(stream)
    }

    fn over_tcp(&self, stream: TcpStream, within: Duration) -> Result<Response> {
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        stream.set_nodelay(true)?;
        self.exchange(stream)
    }

    /// Writes it to any stream and reads the answer.
    ///
    /// # Errors
    ///
    /// Fails where the stream does or the answer is no HTTP.
    pub fn exchange(&self, mut stream: impl Read + Write) -> Result<Response> {
        stream.write_all(&self.head()).context("cannot send the request")?;
        stream.write_all(&self.body).context("cannot send the body")?;
        stream.flush().context("cannot send the request")?;
        read_response(&mut stream, self.method == "HEAD")
    }

    fn head(&self) -> Vec<u8> {
        let has = |name: &str| self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !has("host") {
            head.push_str("host: test\r\n");
        }
        if !has("connection") {
            head.push_str("connection: close\r\n");
        }
        if !has("content-length") && !has("transfer-encoding") && !self.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

impl Response {
    /// Value of the first header line of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// Fails where it is none; the error shows the body.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }
}

/// Reads one answer; interim answers (1xx) are passed over.
fn read_response(stream: &mut impl Read, without_body: bool) -> Result<Response> {
    loop {
        let (status, headers) = read_head(stream)?;
        let mut response = Response { status, headers, body: Vec::new() };
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        if without_body || matches!(status, 101 | 204 | 304) {
            return Ok(response);
        }
        response.body = if response.header("transfer-encoding").is_some_and(|value| value.contains("chunked"))
        {
            read_chunks(stream)?
        } else if let Some(length) = response.header("content-length") {
            read_exactly(stream, length.trim().parse().context("content-length is no number")?)?
        } else {
            let mut body = Vec::new();
            stream.take(MAX_ANSWER_BYTES).read_to_end(&mut body).context("cannot read the body")?;
            body
        };
        return Ok(response);
    }
}

fn read_head(stream: &mut impl Read) -> Result<(u16, Vec<(String, String)>)> {
    let first = read_line(stream).context("cannot read the status line")?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status line of HTTP: {first:?}"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).context("cannot read a header line")?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').with_context(|| format!("no header line: {line:?}"))?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
}

fn read_line(stream: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return String::from_utf8(line).context("a line that is no UTF-8"),
            [b'\r'] => {}
            [other] => line.push(other),
        }
        ensure!(line.len() < 65_536, "a line longer than 64 KiB");
    }
}

fn read_chunks(stream: &mut impl Read) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream).context("cannot read the length of a chunk")?;
        let length = line.split(';').next().unwrap_or_default().trim();
        let length =
            u64::from_str_radix(length, 16).with_context(|| format!("no length of a chunk: {line:?}"))?;
        if length == 0 {
            while !read_line(stream)?.is_empty() {}
            return Ok(body);
        }
        body.extend(read_exactly(stream, length)?);
        let end = read_line(stream)?;
        ensure!(end.is_empty(), "a chunk is longer than it says");
    }
}

fn read_exactly(stream: &mut impl Read, length: u64) -> Result<Vec<u8>> {
    ensure!(length <= MAX_ANSWER_BYTES, "an answer of {length} bytes");
    let mut body = Vec::new();
    let read = stream.take(length).read_to_end(&mut body).context("cannot read the body")?;
    if u64::try_from(read)? < length {
        bail!("the answer ended after {read} of {length} bytes");
    }
    Ok(body)
}

/// Runs `curl` with these arguments, on a host or on this machine, and returns status code and body.
///
/// # Errors
///
/// Fails where curl does; the error holds what it said.
pub fn curl(host: Option<&Host>, arguments: &[&str], within: Duration) -> Result<(u16, String)> {
    let seconds = within.as_secs_f64().to_string();
    let mut launch = Launch::new("curl")
        .args(["--silent", "--show-error", "--max-time", &seconds, "--write-out", "\n%{http_code}"])
        .args(arguments);
    if let Some(host) = host {
        launch = launch.on(host);
    }
    let finished = launch.run(within + Duration::from_secs(5))?;
    ensure!(finished.code == Some(0), "curl {arguments:?}: {}", finished.stderr.trim());
    let (body, status) = finished.stdout.rsplit_once('\n').context("curl wrote no status")?;
    Ok((status.parse().context("curl wrote no status")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn each_way_to_end_a_body_is_understood() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello world",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n\r\nhello",
        ] {
            let response = read_response(&mut Cursor::new(text), false).unwrap();
            assert_eq!((response.status, response.text()), (200, "hello".to_owned()));
        }
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel";
        let error = read_response(&mut Cursor::new(text), false).unwrap_err();
        assert_eq!(error.to_string(), "the answer ended after 3 of 5 bytes");
    }

    #[test]
    fn a_request_names_its_host_and_length() {
        let head = Request::new("POST", "/x").bearer("t").body("abc").head();
        let text = String::from_utf8(head).unwrap();
        assert!(
            text.starts_with("POST /x HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 3\r\n")
        );
        assert!(text.ends_with("authorization: Bearer t\r\n\r\n"));
    }
}
