//! HTTP/1.1 towards services: one request after the other on a connection.
//!
//! The task that has a request drives its connection, too: nothing is handed from task to task for an answer.
//! Only an answer that begins before its request has ended gets a task of its own, for the two directions must
//! not wait for each other there ([`relay`](relay::relay)).
//!
//! ```text
//! pool -> Upload writes head and body, AnswerScan reads the head -> Download reads the body -> pool
//! ```
//!
//! - What comes back is read as strictly as what clients send (`proxy-core`, `answer`).
//! - A connection serves the next request only where both directions ended where they said, and nothing came
//!   after that; it is looked at once more before it is used.

mod body;
mod download;
mod pool;
mod relay;
mod upload;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, ready};

use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy_core::answer::{AnswerBody, AnswerHead, AnswerScan, read_answer};
use blueprint_hub_proxy_core::guard::FramingFault;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Response};
use tokio::time::Instant;

pub(crate) use body::{BodyFault, ServiceBody};
pub(crate) use pool::{IDLE, MAX_IDLE, Pool};

use crate::body::{LentBody, UploadError};
use crate::connector::Dialed;
use crate::dial::{DialError, Io};
use crate::sniff::Prefixed;
use download::{Download, fill};
use upload::Upload;

/// Interim answers (1xx) that a service may send before the one that counts.
const MAX_INTERIM: usize = 16;

/// The connection of a service that has agreed to another protocol, with what it has said already.
pub(crate) type Upgraded = Prefixed<Box<dyn Io>>;

/// An open connection to a target on which no request is open.
pub(crate) struct Wire {
    io: Box<dyn Io>,
    /// Kept for its room; empty.
    read: BytesMut,
    target: SocketAddr,
    /// How a head ends that goes there.
    host: Bytes,
    dialed: Dialed,
}

/// Why a request got no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// No connection opened.
    #[error("cannot connect")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The service closed the connection before the end.
    #[error("the connection ended before the answer")]
    Ended,
    /// The answer has no single reading.
    #[error("the answer cannot be read")]
    Framing(#[from] FramingFault),
    /// The service goes on with interim answers for ever.
    #[error("more than {MAX_INTERIM} interim answers")]
    Interim,
    /// The body of the request is broken.
    #[error("the request was not sent")]
    Upload(#[from] UploadError),
    /// The body of the request has not the length that its head says.
    #[error("the body has another length than its head says")]
    Length,
}

/// What is to be sent.
pub(crate) struct Sending<'a> {
    pub(crate) target: SocketAddr,
    /// Now, as whoever sends it has read it.
    pub(crate) began: Instant,
    /// Without the name of the target and the empty line.
    pub(crate) head: &'a [u8],
    pub(crate) method: Method,
    /// Room for the fields of the answer.
    pub(crate) headers: HeaderMap,
    /// `None` where there is none.
    pub(crate) body: Option<(LentBody, BodyLength)>,
}

/// What came back.
pub(crate) struct Sent {
    pub(crate) response: Response<ServiceBody>,
    /// When its head was there.
    pub(crate) at: Instant,
    pub(crate) dialed: Dialed,
}

/// How the length of a request's body is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// In the head.
    Sized(u64),
    /// By its last chunk.
    Chunked,
}

/// Sends a request and waits for the head of its answer.
///
/// # Errors
///
/// Why there is none.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub(crate) async fn send(pool: &Pool, sending: Sending<'_>, spawner: &Spawner) -> Result<Sent, WireError> {
    let wire = pool.connection(sending.target, sending.began).await?;
    let dialed = wire.dialed;
    let mut head = BytesMut::with_capacity(sending.head.len().saturating_add(wire.host.len()));
    head.put_slice(sending.head);
    head.put_slice(&wire.host);
    let mut exchange = Exchange {
        wire,
        upload: Upload::new(head, sending.body),
        is_uploaded: false,
        method: sending.method,
        headers: sending.headers,
        scan: AnswerScan::default(),
        interim: 0,
    };
    let answer = poll_fn(|cx| exchange.poll(cx)).await?;
    let at = Instant::now();
    Ok(Sent { response: exchange.into_response(answer, at, pool, spawner), at, dialed })
}

/// The name of a target, and the end of the head.
fn host_line(target: SocketAddr) -> Bytes {
    let line = match (target.ip(), target.port()) {
        (IpAddr::V4(address), 80) => format!("host: {address}\r\n\r\n"),
        (IpAddr::V4(address), port) => format!("host: {address}:{port}\r\n\r\n"),
        (IpAddr::V6(address), 80) => format!("host: [{address}]\r\n\r\n"),
        (IpAddr::V6(address), port) => format!("host: [{address}]:{port}\r\n\r\n"),
    };
    line.into()
}

/// A request that waits for the head of its answer.
struct Exchange {
    wire: Wire,
    upload: Upload,
    is_uploaded: bool,
    method: Method,
    headers: HeaderMap,
    scan: AnswerScan,
    interim: usize,
}

impl Exchange {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, WireError>> {
        let mut broken = None;
        if !self.is_uploaded {
            match self.upload.poll(&mut self.wire.io, cx) {
                Poll::Ready(Ok(())) => self.is_uploaded = true,
                // A service that closes has perhaps said why.
                Poll::Ready(Err(WireError::Io(error))) => broken = Some(error),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        match (self.poll_answer(cx), broken) {
            (Poll::Ready(Ok(answer)), _) => Poll::Ready(Ok(answer)),
            (_, Some(error)) => Poll::Ready(Err(error.into())),
            (polled, None) => polled,
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, WireError>> {
        loop {
            if let Some(end) = self.scan.end(&self.wire.read)? {
                let head = self.wire.read.split_to(end).freeze();
                let answer = read_answer(&head, &self.method, std::mem::take(&mut self.headers))?;
                if !answer.is_interim() {
                    return Poll::Ready(Ok(answer));
                }
                self.interim = self.interim.saturating_add(1);
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(WireError::Interim));
                }
                self.scan = AnswerScan::default();
                continue;
            }
            let count = ready!(fill(&mut self.wire.io, &mut self.wire.read, download::LEAST_ROOM, cx))?;
            if count == 0 {
                return Poll::Ready(Err(WireError::Ended));
            }
        }
    }

    /// The answer whose head came `at`.
    fn into_response(
        self,
        answer: AnswerHead,
        at: Instant,
        pool: &Pool,
        spawner: &Spawner,
    ) -> Response<ServiceBody> {
        let AnswerHead { status, headers, body, stays_open } = answer;
        let Self { mut wire, upload, is_uploaded, .. } = self;
        let body = match body {
            AnswerBody::Upgraded => {
                let said = wire.read.split().freeze();
                ServiceBody::Upgraded(Box::new(Prefixed::new(said, wire.io)))
            }
            framing @ (AnswerBody::None
            | AnswerBody::Sized(_)
            | AnswerBody::Chunked
            | AnswerBody::UntilClose) => {
                let mut download = Download::new(framing, std::mem::take(&mut wire.read), stays_open);
                if !is_uploaded {
                    relay::relay(wire, upload, download, pool.clone(), spawner)
                } else if let Some(data) = download.whole() {
                    if let Some(room) = download.into_room() {
                        pool.keep(wire, room, at);
                    }
                    ServiceBody::Whole(data)
                } else {
                    ServiceBody::direct(wire, download, pool.clone())
                }
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}
