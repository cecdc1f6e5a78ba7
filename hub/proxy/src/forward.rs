//! One request: decided by the core, sent to a target, answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::{
    Admission, CanonicalRequest, Downstream, MAX_HEADERS, Refusal, choose, decide, response_headers,
    upstream_headers,
};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioTimer;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::answer::{self, REQUEST_ID};
use crate::body::{AnswerBody, LentBody, RequestBody, StreamBody};
use crate::connector::Connector;
use crate::executor::Executor;
use crate::metrics::ProxyMetrics;
use crate::open::{AtTarget, OpenRequest, Outstanding};
use crate::tables::Tables;

/// How many other targets are tried after the first whose connection did not open.
const MAX_RETRIES: usize = 2;

/// How long a connection to a target is kept for the next request. Shorter than the 5 s after which
/// common HTTP servers close an idle one, so that a request is not sent into a closing connection.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per target.
const POOL_MAX_IDLE: usize = 64;

/// Most bytes read ahead of one answer over HTTP/1.
const UPSTREAM_BUFFER: usize = 64 * 1024;

/// HTTP/2 flow-control windows towards services, in bytes: of one answer, and of one connection.
const UPSTREAM_WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// Most bytes in the headers of an answer over HTTP/2.
const UPSTREAM_HEADER_LIST: u32 = 64 * 1024;

/// What all requests share.
pub(crate) struct Forwarder {
    domain: String,
    tables: Arc<ArcSwap<Tables>>,
    http1: Client<Connector, LentBody>,
    http2: Client<Connector, LentBody>,
    outstanding: Outstanding,
    turn: AtomicUsize,
    metrics: Arc<ProxyMetrics>,
    drain: CancellationToken,
}

impl Forwarder {
    pub(crate) fn new(
        domain: String,
        tables: Arc<ArcSwap<Tables>>,
        connector: Connector,
        metrics: Arc<ProxyMetrics>,
        spawner: &Spawner,
    ) -> Self {
        Self {
            domain,
            tables,
            http1: pool(connector.clone(), spawner, false),
            http2: pool(connector, spawner, true),
            outstanding: Outstanding::default(),
            turn: AtomicUsize::new(0),
            metrics,
            drain: spawner.stop().drain,
        }
    }

    /// Answers one request, whatever it is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the answer's body ends the request at the service too.
    pub(crate) async fn answer(
        &self,
        source: IpAddr,
        tls: bool,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let mut open = OpenRequest::begin(Arc::clone(&self.metrics));
        let fresh_id = fresh_request_id();
        let (parts, body) = request.into_parts();
        let downstream = Downstream { source, tls, domain: &self.domain, request_id: &fresh_id };
        let parsed = CanonicalRequest::parse(&parts, &downstream);
        let request_id = parsed.as_ref().map_or(fresh_id.as_str(), CanonicalRequest::request_id).to_owned();
        open.set_request_id(&request_id);
        let sent = match parsed {
            Ok(canonical) => self.forward(&canonical, &parts.headers, RequestBody::new(body)).await,
            Err(refusal) => Err(refusal),
        };
        match sent {
            Ok((response, at_target)) => {
                open.set_status(response.status());
                open.set_target(at_target);
                pass_on(response, &parts.method, &request_id, open)
            }
            Err(refusal) => {
                self.metrics.count_refusal(&refusal);
                open.set_status(refusal.status());
                log_refusal(&refusal, &request_id, source);
                answer::refuse(&refusal, &request_id)
            }
        }
    }

    /// Decides, and tries targets until one takes the request.
    async fn forward(
        &self,
        canonical: &CanonicalRequest,
        headers: &HeaderMap,
        body: RequestBody,
    ) -> Result<(Response<Incoming>, AtTarget), Refusal> {
        if self.drain.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let tables = self.tables.load_full();
        let now = Timestamp::from(SystemTime::now());
        let admission = decide(canonical, &tables.access, &tables.routes, now)?;
        let service = admission.service();
        let targets = tables.routes.targets(&service).unwrap_or_default();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut tried: Vec<SocketAddr> = Vec::new();
        while tried.len() <= MAX_RETRIES {
            let Some(target) = choose(targets, |address| self.outstanding.at(address), &tried, turn) else {
                break;
            };
            if !tried.is_empty() {
                self.metrics.retries.inc();
            }
            let at_target = self.outstanding.begin(target.address);
            let request = new_request(canonical, headers, &admission, target.address, &body)?;
            let client = if canonical.is_grpc() { &self.http2 } else { &self.http1 };
            match client.request(request).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Refusal::UpstreamFailed { service });
                }
                Ok(response) => return Ok((response, at_target)),
                Err(error) => note_failure(&error, service, &body, canonical.request_id())?,
            }
            tried.push(target.address);
        }
        Err(Refusal::TargetUnreachable { service })
    }
}

/// Goes on to the next target where nothing was sent, and gives up everywhere else.
fn note_failure(
    error: &Error,
    service: ServiceKey,
    body: &RequestBody,
    request_id: &str,
) -> Result<(), Refusal> {
    debug!(%service, request_id, error = %Chain(error), "target failed");
    if error.is_connect() && !body.is_touched() { Ok(()) } else { Err(Refusal::UpstreamFailed { service }) }
}

/// A pool of connections that speaks one version of HTTP.
fn pool(connector: Connector, spawner: &Spawner, http2: bool) -> Client<Connector, LentBody> {
    Client::builder(Executor::new("proxy upstream", spawner.clone()))
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .http1_max_buf_size(UPSTREAM_BUFFER)
        .http1_max_headers(MAX_HEADERS)
        .http2_initial_stream_window_size(UPSTREAM_WINDOWS.0)
        .http2_initial_connection_window_size(UPSTREAM_WINDOWS.1)
        .http2_max_header_list_size(UPSTREAM_HEADER_LIST)
        .http2_only(http2)
        .build(connector)
}

/// Builds the request that the service gets: target, headers and identity are ours, the body is streamed.
fn new_request(
    canonical: &CanonicalRequest,
    headers: &HeaderMap,
    admission: &Admission,
    target: SocketAddr,
    body: &RequestBody,
) -> Result<Request<LentBody>, Refusal> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(target.to_string())
        .path_and_query(canonical.path_and_query())
        .build()
        .map_err(|_| Refusal::UpstreamFailed { service: admission.service() })?;
    let mut request = Request::new(body.lend());
    *request.method_mut() = canonical.method().clone();
    *request.uri_mut() = uri;
    *request.version_mut() = if canonical.is_grpc() { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.headers_mut() = upstream_headers(canonical, headers, admission);
    Ok(request)
}

/// Makes the client's answer out of the service's.
fn pass_on(
    response: Response<Incoming>,
    method: &Method,
    request_id: &str,
    open: OpenRequest,
) -> Response<AnswerBody> {
    let (parts, body) = response.into_parts();
    let mut headers = response_headers(&parts.headers);
    // The length is that of the body at hand; only an answer without a body says it in words.
    if method != Method::HEAD && parts.status != StatusCode::NOT_MODIFIED {
        headers.remove(CONTENT_LENGTH);
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    let mut answer = Response::new(AnswerBody::Stream(StreamBody::new(body, open)));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers;
    answer
}

fn log_refusal(refusal: &Refusal, request_id: &str, source: IpAddr) {
    info!(target: "audit", reason = refusal.code(), request_id, "request refused");
    debug!(reason = refusal.code(), request_id, %source, error = %refusal, "request refused");
}

/// 128 random bits in hexadecimal.
fn fresh_request_id() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness ids repeat, which harms nothing but the reading of logs.
    let _ = blueprint_common_types::fill_random(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}
