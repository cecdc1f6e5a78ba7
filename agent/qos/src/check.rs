//! One try of one service.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::HealthCheck;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes read at most while looking for the end of the status line.
const STATUS_LINE_BYTES: u64 = 1024;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// True where the service answered as it should.
    pub ok: bool,
    /// Time the check took, in microseconds.
    pub micros: u32,
    /// Why it is not ok, one line; empty where it is.
    pub reason: String,
}

/// Tries the service at `address` once, within `timeout`.
///
/// An HTTP check sends `GET` over a connection of its own and reads no further than the status line; a
/// redirect counts as an answer and is not followed.
///
/// # Cancel safety
///
/// Dropping the future closes the connection; nothing else is left.
pub async fn check(how: &HealthCheck, address: SocketAddr, timeout: Duration) -> CheckResult {
    let start = Instant::now();
    let tried = match how {
        HealthCheck::Tcp => tokio::time::timeout(timeout, check_tcp(address)).await,
        HealthCheck::Unchecked => Ok(Ok(())),
        HealthCheck::Http(path) => tokio::time::timeout(timeout, check_http(address, path)).await,
    };
    let problem = match tried {
        Ok(Ok(())) => None,
        Ok(Err(problem)) => Some(problem),
        Err(_late) => Some(format!("no answer within {timeout:?}")),
    };
    CheckResult {
        ok: problem.is_none(),
        micros: u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX),
        reason: problem.unwrap_or_default(),
    }
}

async fn check_tcp(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| explain("connect", &error))
}

async fn check_http(address: SocketAddr, path: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| explain("connect", &error))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: blueprint-agent\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| explain("send", &error))?;
    let line = read_status_line(stream).await.map_err(|error| explain("read the answer", &error))?;
    match parse_status(&line) {
        Some(status) if status < 400 => Ok(()),
        Some(status) => Err(format!("answers {status}")),
        None => Err("does not answer in HTTP/1".to_owned()),
    }
}

/// Reads up to the first line feed, the end of the stream or 1 KiB.
async fn read_status_line(stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut stream = stream.take(STATUS_LINE_BYTES);
    let mut line = Vec::with_capacity(64);
    while !line.contains(&b'\n') {
        if stream.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    Ok(line)
}

/// The status of `HTTP/1.x NNN ...`.
fn parse_status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (version, status) = (words.next()?, words.next()?);
    let is_status = version.starts_with("HTTP/1.") && status.len() == 3;
    status.parse().ok().filter(|status| is_status && (100..600).contains(status))
}

fn explain(attempt: &str, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "connection refused".to_owned();
    }
    format!("cannot {attempt}: {error}")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn http() -> HealthCheck {
        "http:/healthz".parse().unwrap()
    }

    /// Checks a service that gives `answer` to one request; gives the result and the request.
    async fn check_against(answer: &[u8]) -> (CheckResult, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            // The check hangs up as soon as it has the status line.
            let _ = stream.write_all(answer).await;
            String::from_utf8(request).unwrap()
        };
        let how = http();
        tokio::join!(check(&how, address, TIMEOUT), serve)
    }

    #[tokio::test]
    async fn an_answer_below_400_is_ok() {
        for status in ["HTTP/1.1 200 OK", "HTTP/1.0 204", "HTTP/1.1 302 Found"] {
            let (result, request) = check_against(format!("{status}\r\n\r\n").as_bytes()).await;
            assert!(result.ok && result.reason.is_empty(), "{status}: {result:?}");
            assert!(request.starts_with("GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        }
    }

    #[tokio::test]
    async fn the_reason_names_what_is_wrong() {
        let (result, _) = check_against(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        assert_eq!((result.ok, result.reason.as_str()), (false, "answers 503"));
        for answer in [&b"SSH-2.0-x\r\n"[..], b"", &[0xff; 4096], b"HTTP/1.1 999 x\n", b"HTTP/1.1 20\n"] {
            let (result, _) = check_against(answer).await;
            assert_eq!((result.ok, result.reason.as_str()), (false, "does not answer in HTTP/1"));
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_refuses_both_checks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(check(&HealthCheck::Tcp, address, TIMEOUT).await.ok);
        drop(listener);
        for how in [HealthCheck::Tcp, http()] {
            assert_eq!(check(&how, address, TIMEOUT).await.reason, "connection refused");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let result = check(&http(), listener.local_addr().unwrap(), Duration::from_secs(2)).await;
        assert_eq!((result.ok, result.reason.as_str()), (false, "no answer within 2s"));
    }
}
