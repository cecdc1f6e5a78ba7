//! The Docker Engine API as it goes over a connection: one request and its answer, over a Unix socket or mutual TLS.
//!
//! Each request has a connection of its own, so that dropping a future ends its exchange and nothing else. No task is
//! needed: whoever reads an answer drives its connection. What requests say, and what answers mean, is for those who
//! ask: agents run containers of workloads, hubs run containers that are machines.
//!
//! Invariants:
//! - an answer is read as far as its reader asks, and never past the reader's bound;
//! - nothing here waits for longer than its caller: limits of time are the caller's;
//! - nothing is sent before the other side of a TLS connection is known.

mod answer;
mod place;
mod version;

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub use answer::Answer;
pub use place::{Place, TlsError, TlsFiles};
pub use version::ApiVersion;

/// Most that a connection buffers, in bytes; an answer that is not read is not fetched either.
const BUFFER_BYTES: usize = 64 << 10;

/// Why there is no answer, or not the whole of one.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No connection; nothing was sent.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The other side of the connection is not the one that was named, or does not know this one; nothing was sent.
    #[error("no TLS")]
    Tls(#[source] io::Error),
    /// It broke off; what was asked may have been done.
    #[error("the connection broke off, or that is no HTTP")]
    Broken(#[from] hyper::Error),
    /// Longer than the reader takes.
    #[error("it has more than {max} bytes")]
    TooLong {
        /// Most that the reader takes, in bytes.
        max: usize,
    },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection of an engine that became bytes in both directions. An end of one is passed on alone; dropping it closes it.
pub type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

/// What came of a request to make its connection a stream.
#[derive(Debug)]
pub enum Upgrade {
    /// It is one now.
    Stream(Hijacked),
    /// The engine answers in another way.
    Answer(Answer),
}

type Wire<B> = hyper::client::conn::http1::Connection<TokioIo<Box<dyn Stream>>, B>;

/// Sends a request and waits for the head of its answer, without a limit of time.
///
/// # Errors
///
/// [`WireError`]; only after [`WireError::Broken`] the request may have been carried out.
///
/// # Cancel safety
///
/// Dropping the future closes the connection; the engine may have got the request.
pub async fn open<B>(place: &Place, request: Request<B>) -> Result<Answer, WireError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let drive = |connection: Wire<B>| -> Connection {
        Box::pin(async move {
            let _ = connection.await;
        })
    };
    let (response, connection) = send(place, request, drive).await?;
    Ok(Answer::new(response, connection))
}

/// Sends a request that asks, by its headers, to make the connection a stream, without a limit of time.
///
/// # Errors
///
/// As [`open`].
///
/// # Cancel safety
///
/// As [`open`].
pub async fn upgrade<B>(place: &Place, request: Request<B>) -> Result<Upgrade, WireError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let drive = |connection: Wire<B>| -> Connection {
        Box::pin(async move {
            let _ = connection.with_upgrades().await;
        })
    };
    let (response, mut connection) = send(place, request, drive).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Upgrade::Answer(Answer::new(response, connection)));
    }
    let mut upgraded = Box::pin(hyper::upgrade::on(response));
    let upgraded = poll_fn(|cx| {
        if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
            connection = None;
        }
        upgraded.as_mut().poll(cx)
    });
    Ok(Upgrade::Stream(TokioIo::new(upgraded.await?)))
}

/// Sends a request; gives the head of its answer, and the connection where that is not done.
async fn send<B>(
    place: &Place,
    request: Request<B>,
    drive: impl FnOnce(Wire<B>) -> Connection,
) -> Result<(Response<Incoming>, Option<Connection>), WireError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let stream = place.connect().await?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = builder.max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
    let mut connection = drive(connection);
    let mut response = Box::pin(sender.send_request(request));
    let mut is_driven = true;
    let response = poll_fn(|cx| {
        if is_driven && connection.as_mut().poll(cx).is_ready() {
            is_driven = false;
        }
        response.as_mut().poll(cx)
    })
    .await?;
    Ok((response, is_driven.then_some(connection)))
}

/// A text as a part of a path or query: all but letters, digits and `-._~/:@` as `%XX`.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
