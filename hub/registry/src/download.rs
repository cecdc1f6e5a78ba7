//! The agent's program for machines that were ordered: `GET /agent/TOKEN_ID/TICKET/SHA256` over HTTP/1.1 on the control
//! listener.
//!
//! A machine has nothing but its user data yet. That holds a ticket, made from its join token, which is good as long as
//! the token: until the machine joined, 15 minutes at most. The digest in the user data says what the program is, so a machine
//! need not trust whoever answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blueprint_common_types::workload::Sha256Digest;
use blueprint_common_types::{Timestamp, TokenId};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::try_unfold;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::artefact::PushedFile;
use crate::shared::Shared;
use blueprint_common_runtime::places::Place;

/// The protocol by which machines fetch the agent.
pub(crate) const ALPN: &[u8] = b"http/1.1";

/// Machines that fetch at once; the next ones are told to come again.
pub(crate) const AT_ONCE: usize = 32;

/// Fetches with one token at once: a machine needs one, and one that was cut off.
pub(crate) const OF_TOKEN: u32 = 2;

/// Longest time of one fetch.
const WITHIN: Duration = Duration::from_secs(600);

/// Time for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Bytes that are read at once.
const PIECE_BYTES: usize = 32 * 1024;

/// Programs of the agent that the hub holds.
pub trait AgentFiles: Send + Sync {
    /// Opens one and says how long it is; `None` where the hub does not hold it.
    ///
    /// # Errors
    ///
    /// What the file system says.
    fn open(&self, sha256: Sha256Digest) -> BoxFuture<'_, io::Result<Option<(u64, PushedFile)>>>;
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Answers the requests of one connection.
pub(crate) async fn serve<S>(shared: Arc<Shared>, stream: S, source: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request, source).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).keep_alive(false).max_headers(32);
    let drain = shared.spawner.stop().drain;
    let served = timeout(WITHIN, server.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = served => served,
        // A machine asks again, and the next start of the hub knows the program, too.
        () = drain.cancelled() => return,
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%source, %error, "fetch of the agent ended"),
        Err(_) => debug!(%source, "fetch of the agent took too long"),
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>, source: SocketAddr) -> Response<Body> {
    if !shared.download_gate.lock().is_open(source.ip(), Instant::now()) {
        return refuse(shared, StatusCode::TOO_MANY_REQUESTS, "turned_away");
    }
    if request.method() != Method::GET {
        return refuse(shared, StatusCode::METHOD_NOT_ALLOWED, "method");
    }
    let Some((token, ticket, sha256)) = parts(request.uri().path()) else {
        shared.download_gate.lock().note(source.ip());
        return refuse(shared, StatusCode::NOT_FOUND, "path");
    };
    // Before the store is asked: strangers may cost it no more than this.
    let Ok(place) = Arc::clone(&shared.downloads).try_acquire_owned() else {
        return refuse(shared, StatusCode::SERVICE_UNAVAILABLE, "busy");
    };
    let tokens = match shared.store.list_join_tokens().await {
        Ok(tokens) => tokens,
        Err(error) => {
            error!(%error, "join tokens not read");
            return refuse(shared, StatusCode::SERVICE_UNAVAILABLE, "store");
        }
    };
    let now = Timestamp::from(SystemTime::now());
    let is_good = tokens.iter().any(|row| {
        row.id == token && row.uses_left > 0 && row.expires_at > now && row.hash.is_ticket(ticket)
    });
    if !is_good {
        shared.download_gate.lock().note(source.ip());
        return refuse(shared, StatusCode::FORBIDDEN, "ticket");
    }
    let Some(of_token) = shared.downloads_of_token.begin(token) else {
        return refuse(shared, StatusCode::TOO_MANY_REQUESTS, "busy_token");
    };
    let place = (place, of_token);
    match shared.agent_files.open(sha256).await {
        Ok(Some((length, file))) => {
            shared.metrics.download("ok");
            info!(%source, %token, %sha256, "agent goes to a new machine");
            give(length, file, place)
        }
        Ok(None) => refuse(shared, StatusCode::NOT_FOUND, "unknown_file"),
        Err(error) => {
            error!(%sha256, %error, "agent not read");
            refuse(shared, StatusCode::SERVICE_UNAVAILABLE, "file")
        }
    }
}

/// Token, ticket and digest out of the path.
fn parts(path: &str) -> Option<(TokenId, &str, Sha256Digest)> {
    let mut parts = path.strip_prefix("/agent/")?.split('/');
    let (token, ticket, sha256) = (parts.next()?, parts.next()?, parts.next()?);
    let is_all = parts.next().is_none();
    is_all.then_some(())?;
    Some((token.parse().ok()?, ticket, sha256.parse().ok()?))
}

fn refuse(shared: &Shared, status: StatusCode, reason: &'static str) -> Response<Body> {
    shared.metrics.download(reason);
    let mut response =
        Response::new(Full::new(Bytes::from_static(b"no\n")).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn give(length: u64, file: PushedFile, place: (OwnedSemaphorePermit, Place<TokenId>)) -> Response<Body> {
    let pieces = try_unfold((file, place), |(mut file, place)| async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let most = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        (&mut file).take(most).read_to_end(&mut piece).await?;
        Ok::<_, io::Error>((!piece.is_empty()).then(|| (Frame::data(Bytes::from(piece)), (file, place))))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_three_parts() {
        let sha256 = "ab".repeat(32);
        let path = format!("/agent/0123456789abcdef/ticket/{sha256}");
        let (token, ticket, digest) = parts(&path).unwrap();
        assert_eq!((token.to_string().as_str(), ticket), ("0123456789abcdef", "ticket"));
        assert_eq!(digest.to_string(), sha256);
        for wrong in ["/", "/agent/", "/agent/0123456789abcdef/ticket", &format!("{path}/x"), "/agent/x/y/z"]
        {
            assert!(parts(wrong).is_none(), "{wrong}");
        }
    }
}
