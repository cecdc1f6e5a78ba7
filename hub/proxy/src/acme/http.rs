//! Requests to an ACME server: HTTP/1.1 by TLS, one connection each, bounded in time and size.
//!
//! An order is a handful of requests every two months; nothing here is kept open.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longest time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// Longest answer, in bytes; a chain has a few KiB.
const MAX_ANSWER: usize = 1 << 20;

/// Why a request had no answer.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    /// Only `https` with a host is asked.
    #[error("{0} is not an https URL")]
    Url(Uri),
    /// Nothing came in time.
    #[error("{0} did not answer within {REQUEST_TIME:?}")]
    TooLong(String),
    /// The network or TLS.
    #[error("cannot reach {host}")]
    Io {
        /// Whom.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not HTTP.
    #[error("{host} does not speak HTTP/1.1")]
    Http {
        /// Who.
        host: String,
        /// Why.
        source: hyper::Error,
    },
    /// Longer than any answer of ACME, or broken off.
    #[error("the answer of {0} broke off, or has more than {MAX_ANSWER} bytes")]
    Body(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// See the module.
#[derive(Clone)]
pub(super) struct AcmeHttp {
    tls: Arc<ClientConfig>,
    /// How long the server wants to be left alone, by its last answer that said so.
    wish: Arc<Mutex<Option<Duration>>>,
}

impl AcmeHttp {
    pub(super) fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), wish: Arc::default() })
    }

    /// The server's wish, once.
    pub(super) fn take_wish(&self) -> Option<Duration> {
        self.wish.lock().take()
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let answered = timeout(REQUEST_TIME, self.exchange(request)).await;
        let answered = answered.unwrap_or_else(|_| Err(RequestError::TooLong("the acme server".to_owned())));
        let response = answered.map_err(|error| Error::Other(Box::new(error)))?;
        if response.status().is_client_error() || response.status().is_server_error() {
            *self.wish.lock() = retry_after(response.headers(), SystemTime::now());
        }
        Ok(BytesResponse::from(response))
    }

    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, RequestError> {
        let (mut parts, body) = request.into_parts();
        let uri = std::mem::take(&mut parts.uri);
        let wrong = || RequestError::Url(uri.clone());
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(wrong)?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(name.clone()).map_err(|_| wrong())?;
        let port = authority.port_u16().unwrap_or(443);
        parts.headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?);
        parts.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(|_| wrong())?;

        let io = |source| RequestError::Io { host: name.clone(), source };
        let http = |source| RequestError::Http { host: name.clone(), source };
        let stream = TcpStream::connect((name.as_str(), port)).await.map_err(io)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(server, stream).await.map_err(io)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let host = name.clone();
        let answered = async move {
            // The connection ends once the sender is gone, so it belongs to this half.
            let response = sender.send_request(Request::from_parts(parts, body)).await.map_err(http)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|source| RequestError::Body(host, source))?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
        };
        let (answered, _) = tokio::join!(answered, connection);
        answered
    }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}

/// How long `Retry-After` asks to wait: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_asks_for_a_pause_in_seconds_or_by_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
