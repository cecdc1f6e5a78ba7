//! One try of one service.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::{HealthCheck, StatusRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Longest answer of a gRPC health service that is read, in bytes.
const ANSWER_BYTES: usize = 1024;

/// Longest text of another server that a reason repeats, in characters.
const SAID_CHARS: usize = 80;

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

/// The reason where nobody listens.
const REFUSED: &str = "connection refused";

impl CheckResult {
    /// True where nobody listens: the service's process is gone, or shut its port.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !self.ok && self.reason == REFUSED
    }
}

/// Tries the service at `address` once, within `timeout`.
///
/// Every check has a connection of its own. An HTTP check sends `GET` and reads no further than the status line, 1 KiB at
/// most; a redirect is judged by its status and not followed. A gRPC check calls `grpc.health.v1.Health/Check` in clear
/// text (HTTP/2 with prior knowledge), and takes an answer of 1 KiB at most.
///
/// # Cancel safety
///
/// Dropping the future closes the connection; nothing else is left.
pub async fn check(how: &HealthCheck, address: SocketAddr, timeout: Duration) -> CheckResult {
    let start = Instant::now();
    let tried = match how {
        HealthCheck::Tcp => tokio::time::timeout(timeout, check_tcp(address)).await,
        HealthCheck::Unchecked => Ok(Ok(())),
        HealthCheck::Http { path, statuses } => {
            tokio::time::timeout(timeout, check_http(address, path, *statuses)).await
        }
        HealthCheck::Grpc(service) => tokio::time::timeout(timeout, check_grpc(address, service)).await,
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

async fn check_http(address: SocketAddr, path: &str, statuses: StatusRange) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| explain("connect", &error))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: blueprint-agent\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| explain("send", &error))?;
    let line = read_status_line(stream).await.map_err(|error| explain("read the answer", &error))?;
    match parse_status(&line) {
        Some(status) if statuses.contains(status) => Ok(()),
        Some(status) => Err(format!("answers {status}")),
        None => Err("does not answer in HTTP/1".to_owned()),
    }
}

async fn check_grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| format!("cannot connect: {error}"))?;
    let channel = endpoint.connect().await.map_err(|error| explain_chain("connect", &error))?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(request).await.map_err(|status| explain_status(service, &status))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other @ (ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown) => {
            Err(format!("answers {}", other.as_str_name()))
        }
    }
}

/// What a refused call says about the service.
fn explain_status(service: &str, status: &Status) -> String {
    let said: String = status.message().chars().filter(|c| !c.is_control()).take(SAID_CHARS).collect();
    if status.code() == Code::Unimplemented {
        return "has no grpc.health.v1.Health".to_owned();
    }
    if status.code() == Code::NotFound {
        return format!("its grpc.health.v1.Health does not know {service:?}");
    }
    format!("gRPC check fails with {:?}: {said}", status.code())
}

/// The refusal or failure below what a library made of it.
fn explain_chain(attempt: &str, error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(error) => explain(attempt, error),
        None => format!("cannot {attempt}: {cause}"),
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
        return REFUSED.to_owned();
    }
    format!("cannot {attempt}: {error}")
}

#[cfg(test)]
mod tests;
