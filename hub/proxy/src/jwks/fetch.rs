//! One fetch of an issuer's keys: a `GET` to an address that was looked at first.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_hub_proxy_core::identity::{JwksUrl, MAX_JWK_SET, VerifyingKey, is_public, max_age};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{ACCEPT, CACHE_CONTROL, HOST, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::JwksConfig;

/// How long a fetch may take, from the name to the last byte.
pub(super) const FETCH_TIME: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 2;

/// Most header fields of an answer, and most bytes of its head.
const HEAD: (usize, usize) = (64, 16 * 1024);

/// Keys, and how long they may be kept.
pub(super) type Fetched = (Vec<VerifyingKey>, Option<Duration>);

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not one of the hosts in oauth.jwks_hosts of the hub's configuration")]
    Host(String),
    #[error("the name has no address: {0}")]
    Unresolved(#[source] std::io::Error),
    #[error("no address of the host is a public one")]
    NotPublic,
    #[error("the host takes no connection: {0}")]
    Connect(#[source] std::io::Error),
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] std::io::Error),
    #[error("nothing came within {} s", FETCH_TIME.as_secs())]
    TimedOut,
    #[error("the answer is no HTTP: {0}")]
    Http(#[source] hyper::Error),
    #[error("the answer sends the hub elsewhere ({0}), and it follows no redirect")]
    Redirect(StatusCode),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is longer than {MAX_JWK_SET} bytes")]
    TooLong,
    #[error("the answer is no JWK set")]
    Malformed,
}

impl FetchError {
    /// Every label of [`Self::label`], and that of a good fetch.
    pub(super) const LABELS: [&'static str; 12] = [
        "ok",
        "host_not_allowed",
        "unresolved",
        "not_public",
        "connect",
        "tls",
        "timed_out",
        "http",
        "redirect",
        "status",
        "too_long",
        "malformed",
    ];

    /// Label of the metric.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Host(_) => "host_not_allowed",
            Self::Unresolved(_) => "unresolved",
            Self::NotPublic => "not_public",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::TimedOut => "timed_out",
            Self::Http(_) => "http",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
        }
    }
}

/// Fetches the keys of an issuer.
///
/// # Cancel safety
///
/// Dropping the future ends the connection.
pub(super) async fn fetch(config: &JwksConfig, url: &JwksUrl) -> Result<Fetched, FetchError> {
    if !config.hosts.allows(url) {
        return Err(FetchError::Host(url.authority()));
    }
    timeout(FETCH_TIME, exchange(config, url)).await.unwrap_or(Err(FetchError::TimedOut))
}

async fn exchange(config: &JwksConfig, url: &JwksUrl) -> Result<Fetched, FetchError> {
    let stream = connect(config, url).await?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|_| FetchError::NotPublic)?;
    let tls = TlsConnector::from(Arc::clone(&config.tls));
    let stream = tls.connect(name, stream).await.map_err(FetchError::Tls)?;
    let mut builder = http1::Builder::new();
    builder.max_headers(HEAD.0).max_buf_size(HEAD.1);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let request = Request::get(url.target())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("blueprint-hub/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Malformed)?;
    let answered = async move { read(sender.send_request(request).await.map_err(FetchError::Http)?).await };
    driven(connection, answered).await
}

/// Opens a connection to an address that may be asked: the very one that was looked at, whatever the name
/// means a moment later.
async fn connect(config: &JwksConfig, url: &JwksUrl) -> Result<TcpStream, FetchError> {
    let found = lookup_host((url.host(), url.port())).await.map_err(FetchError::Unresolved)?;
    let may_be_asked = |address: &SocketAddr| config.private_dangerously || is_public(address.ip());
    let mut failure = FetchError::NotPublic;
    for address in found.filter(may_be_asked).take(MAX_ADDRESSES) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = FetchError::Connect(error),
        }
    }
    Err(failure)
}

/// Runs `answered` while the connection moves its bytes.
async fn driven<C, A, T>(connection: C, answered: A) -> T
where
    C: Future,
    A: Future<Output = T>,
{
    match select(Box::pin(connection), Box::pin(answered)).await {
        Either::Left((_, answered)) => answered.await,
        Either::Right((answer, _)) => answer,
    }
}

async fn read(response: Response<Incoming>) -> Result<Fetched, FetchError> {
    let status = response.status();
    if status.is_redirection() {
        return Err(FetchError::Redirect(status));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    let values = response.headers().get_all(CACHE_CONTROL).iter();
    let kept = max_age(values.filter_map(|value| value.to_str().ok()));
    let body =
        Limited::new(response.into_body(), MAX_JWK_SET).collect().await.map_err(|error| match error
            .downcast::<hyper::Error>(
        ) {
            Ok(error) => FetchError::Http(*error),
            Err(other) if other.is::<LengthLimitError>() => FetchError::TooLong,
            Err(_) => FetchError::Malformed,
        })?;
    let keys = VerifyingKey::from_jwk_set(&body.to_bytes()).map_err(|_| FetchError::Malformed)?;
    Ok((keys, kept))
}
