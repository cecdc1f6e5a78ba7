//! What the service answers to each path.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use serde_json::{Value, json};

/// Bytes in one piece of `/bytes/N`.
static PIECE: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// Longest wait of `/slow/MS`.
const SLOWEST: Duration = Duration::from_secs(600);

/// Longest work of one `/burn?ms=MS`.
const LONGEST_BURN: Duration = Duration::from_secs(10);

/// Pieces of `/stream`, one each 100 ms.
const STREAM_PIECES: u32 = 10;

/// A body of any kind.
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Answers requests and counts them.
#[derive(Debug)]
pub(crate) struct Routes {
    name: String,
    started: Instant,
    requests: AtomicU64,
    /// What it was given as a blueprint.
    told: Value,
    /// Whether everything is answered with 500, as a version does that must not serve.
    is_broken: bool,
}

impl Routes {
    /// Routes that greet as `name`.
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            started: Instant::now(),
            requests: AtomicU64::new(0),
            told: Value::Null,
            is_broken: false,
        }
    }

    /// The same routes, and `/blueprint` that answers `told`.
    pub(crate) fn telling(self, told: Value) -> Self {
        Self { told, ..self }
    }

    /// The same routes, but that all of them answer 500 where they are broken.
    pub(crate) fn breaking(self, is_broken: bool) -> Self {
        Self { is_broken, ..self }
    }

    /// Answers one request; the query is ignored but by `/burn`, and every method is taken everywhere.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path().to_owned();
        Ok(match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
            _ if self.is_broken => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "broken", "this version answers nothing else")
            }
            [""] => self.greet(&request),
            ["healthz"] => text(StatusCode::OK, "ok\n"),
            ["metrics"] => self.metrics(),
            ["blueprint"] => json_body(StatusCode::OK, &self.told),
            ["crash"] if !self.told.is_null() => std::process::abort(),
            ["echo"] => echo(request),
            ["headers"] => json_body(StatusCode::OK, &headers_json(request.headers())),
            ["stream"] => counted_stream(),
            ["bytes", count] => match count.parse() {
                Ok(count) => byte_stream(count),
                Err(_) => refuse(StatusCode::BAD_REQUEST, "bad_request", "/bytes/N takes a number of bytes"),
            },
            ["slow", millis] => match millis.parse().map(Duration::from_millis) {
                Ok(wait) => slow(wait.min(SLOWEST)).await,
                Err(_) => refuse(StatusCode::BAD_REQUEST, "bad_request", "/slow/MS takes milliseconds"),
            },
            ["burn"] => match burn_time(request.uri().query().unwrap_or_default()) {
                Some(time) => burn(time.min(LONGEST_BURN)).await,
                None => {
                    refuse(StatusCode::BAD_REQUEST, "bad_request", "/burn?ms=MS takes milliseconds of work")
                }
            },
            _ => refuse(StatusCode::NOT_FOUND, "not_found", "no such path; / lists those there are"),
        })
    }

    fn greet(&self, request: &Request<Incoming>) -> Response<AnyBody> {
        let greeting = json!({
            "service": self.name,
            "message": format!("hello from {}", self.name),
            "request_headers": request.headers().len(),
            "paths": ["/", "/healthz", "/metrics", "/echo", "/headers", "/stream", "/bytes/N", "/slow/MS", "/burn?ms=MS"],
        });
        json_body(StatusCode::OK, &greeting)
    }

    fn metrics(&self) -> Response<AnyBody> {
        text(
            StatusCode::OK,
            &format!(
                "# HELP example_requests_total Requests received.\n\
                 # TYPE example_requests_total counter\n\
                 example_requests_total {}\n\
                 # HELP example_uptime_seconds Time since the start.\n\
                 # TYPE example_uptime_seconds gauge\n\
                 example_uptime_seconds {}\n",
                self.requests.load(Ordering::Relaxed),
                self.started.elapsed().as_secs()
            ),
        )
    }
}

fn full(body: impl Into<Bytes>) -> AnyBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

fn with_type(status: StatusCode, kind: &'static str, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, body: &str) -> Response<AnyBody> {
    with_type(status, "text/plain; charset=utf-8", full(body.to_owned()))
}

fn json_body(status: StatusCode, value: &Value) -> Response<AnyBody> {
    with_type(status, "application/json", full(format!("{value}\n")))
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response<AnyBody> {
    json_body(status, &json!({ "error": { "code": code, "message": message } }))
}

/// Every header with all its values in order, bytes outside UTF-8 replaced.
fn headers_json(headers: &HeaderMap) -> Value {
    let mut values = BTreeMap::<&str, Vec<String>>::new();
    for (name, value) in headers {
        values.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    json!(values)
}

/// Sends the request's body back as it comes in.
fn echo(request: Request<Incoming>) -> Response<AnyBody> {
    let (head, body) = request.into_parts();
    let length = body.size_hint().exact();
    let mut response = with_type(StatusCode::OK, "application/octet-stream", body.boxed_unsync());
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

fn streamed(pieces: impl Stream<Item = Bytes> + Send + 'static) -> AnyBody {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

fn byte_stream(count: u64) -> Response<AnyBody> {
    let pieces = stream::unfold(count, |left| async move {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        let piece = PIECE.get(..length).filter(|piece| !piece.is_empty())?;
        let left = left.saturating_sub(u64::try_from(length).unwrap_or(left));
        Some((Bytes::from_static(piece), left))
    });
    let mut response = with_type(StatusCode::OK, "application/octet-stream", streamed(pieces));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(count));
    response
}

fn counted_stream() -> Response<AnyBody> {
    let pieces = stream::unfold(0, |sent| async move {
        if sent == STREAM_PIECES {
            return None;
        }
        if sent > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some((Bytes::from(format!("piece {} of {STREAM_PIECES}\n", sent + 1)), sent + 1))
    });
    with_type(StatusCode::OK, "text/plain; charset=utf-8", streamed(pieces))
}

/// The time that a query asks to work for.
fn burn_time(query: &str) -> Option<Duration> {
    let millis = query.split('&').find_map(|part| part.strip_prefix("ms="))?;
    millis.parse().map(Duration::from_millis).ok()
}

/// Keeps one processor busy for so long, beside all other requests.
async fn burn(time: Duration) -> Response<AnyBody> {
    let work = move || {
        let began = Instant::now();
        let mut rounds = 0u64;
        while began.elapsed() < time {
            rounds = std::hint::black_box(rounds.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(()) => text(StatusCode::OK, &format!("worked for {} ms\n", time.as_millis())),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the work broke off"),
    }
}

async fn slow(wait: Duration) -> Response<AnyBody> {
    tokio::time::sleep(wait).await;
    text(StatusCode::OK, &format!("waited {} ms\n", wait.as_millis()))
}
