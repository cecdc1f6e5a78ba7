//! One request: decided by the core, sent to a target, answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::guard::FramingFault;
use blueprint_hub_proxy_core::{
    Admission, CanonicalRequest, Downstream, MAX_HEADERS, Refusal, Trust, WebSocketKey, choose, decide,
    is_websocket_answer, response_headers, upstream_headers,
};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioTimer;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::answer::{self, REQUEST_ID};
use crate::auth::{AuthApi, Route};
use crate::body::{AnswerBody, ClientBody, LentBody, RequestBody, StreamBody};
use crate::connector::Connector;
use crate::executor::Executor;
use crate::guarded::Framing;
use crate::jwks::Jwks;
use crate::metrics::ProxyMetrics;
use crate::open::{AtTarget, OpenRequest, Outstanding};
use crate::server::ProxyParts;
use crate::statements::Statements;
use crate::upgraded;
use crate::watch::Watch;

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

/// One connection of a client, as each request on it sees it.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    pub(crate) source: IpAddr,
    pub(crate) tls: bool,
    /// On HTTP/1 only.
    pub(crate) framing: Option<Framing>,
}

impl Conversation {
    fn fault(&self, number: u64) -> Option<FramingFault> {
        self.framing.as_ref().and_then(|framing| framing.fault(number))
    }

    fn upgraded(&self) {
        if let Some(framing) = &self.framing {
            framing.upgrade();
        }
    }

    fn stays(&self) {
        if let Some(framing) = &self.framing {
            framing.resume();
        }
    }
}

/// What all requests share.
pub(crate) struct Forwarder {
    domain: String,
    trust: Arc<ArcSwap<Trust>>,
    auth: AuthApi,
    statements: Statements,
    spawner: Spawner,
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
        parts: &ProxyParts,
        connector: Connector,
        metrics: Arc<ProxyMetrics>,
        jwks: Option<Jwks>,
        spawner: &Spawner,
    ) -> Self {
        Self {
            domain,
            trust: Arc::clone(&parts.trust),
            auth: AuthApi::new(parts, jwks, spawner.clone()),
            statements: Statements::new(Arc::clone(&parts.signer)),
            spawner: spawner.clone(),
            http1: pool(connector.clone(), spawner, false),
            http2: pool(connector, spawner, true),
            outstanding: Outstanding::default(),
            turn: AtomicUsize::new(0),
            metrics,
            drain: spawner.stop().drain,
        }
    }

    /// Answers one request, whatever it is; `number` is its place on a connection of HTTP/1.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the answer's body ends the request at the service too.
    pub(crate) async fn answer(
        &self,
        conversation: &Conversation,
        number: u64,
        mut request: Request<ClientBody>,
    ) -> Response<AnswerBody> {
        let mut open = OpenRequest::begin(Arc::clone(&self.metrics));
        let fresh_id = fresh_request_id();
        let (source, tls) = (conversation.source, conversation.tls);
        let upgrade = upgraded::asked(&mut request).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let downstream = Downstream { source, tls, domain: &self.domain, request_id: &fresh_id };
        let parsed = match conversation.fault(number) {
            Some(fault) => Err(Refusal::MalformedRequest { fault }),
            None => CanonicalRequest::parse(&parts, &downstream),
        };
        let request_id = parsed.as_ref().map_or(fresh_id.as_str(), CanonicalRequest::request_id).to_owned();
        open.set_request_id(&request_id);
        if let Ok(canonical) = &parsed
            && let Some(route) = Route::of(canonical.path())
        {
            let answered = self.auth.answer(route, canonical, body).await;
            conversation.stays();
            return self.own(answered, &request_id, source, open);
        }
        let sent = match parsed {
            Ok(canonical) => self.forward(&canonical, &parts.headers, RequestBody::new(body)).await,
            Err(refusal) => Err(refusal),
        };
        let answer = match sent {
            Ok((response, at_target, admission)) => {
                open.set_status(response.status());
                open.set_target(at_target);
                let watch = Watch::new(admission, Arc::clone(&self.trust));
                match upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
                    Some(client) => {
                        conversation.upgraded();
                        let status = upgraded::status(parts.version);
                        open.set_status(status);
                        return self.upgrade(client, response, status, &request_id, open, watch);
                    }
                    None => pass_on(response, &parts.method, &request_id, open, watch),
                }
            }
            Err(refusal) => self.own(Err(refusal), &request_id, source, open),
        };
        conversation.stays();
        answer
    }

    /// Finishes an answer of our own.
    fn own(
        &self,
        answered: Result<Response<AnswerBody>, Refusal>,
        request_id: &str,
        source: IpAddr,
        mut open: OpenRequest,
    ) -> Response<AnswerBody> {
        let mut answer = answered.unwrap_or_else(|refusal| {
            self.metrics.count_refusal(&refusal);
            log_refusal(&refusal, request_id, source);
            answer::refuse(&refusal, request_id)
        });
        if let Ok(value) = HeaderValue::from_str(request_id) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        open.set_status(answer.status());
        answer
    }

    /// Joins the two ends that have agreed to speak another protocol, and lets the client know.
    fn upgrade(
        &self,
        client: OnUpgrade,
        mut response: Response<Incoming>,
        status: StatusCode,
        request_id: &str,
        open: OpenRequest,
        watch: Watch,
    ) -> Response<AnswerBody> {
        let service = hyper::upgrade::on(&mut response);
        self.spawner.spawn("proxy upgraded", upgraded::join(client, service, open, watch));
        let mut headers = upgraded::headers(response.headers(), status);
        if let Ok(value) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, value);
        }
        let mut answer = Response::new(AnswerBody::Own(Full::default()));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }

    /// Decides, and tries targets until one takes the request.
    async fn forward(
        &self,
        canonical: &CanonicalRequest,
        headers: &HeaderMap,
        body: RequestBody,
    ) -> Result<(Response<Incoming>, AtTarget, Admission), Refusal> {
        if self.drain.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let trust = self.trust.load_full();
        let now = Timestamp::from(SystemTime::now());
        let admission = decide(canonical, &trust, now)?;
        let service = admission.service();
        let targets = trust.routes.targets(&service).unwrap_or_default();
        let statement = self.statements.of(&admission, now);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let key = upgraded::key(canonical)?;
        let mut tried: Vec<SocketAddr> = Vec::new();
        while tried.len() <= MAX_RETRIES {
            let Some(target) = choose(targets, |address| self.outstanding.at(address), &tried, turn) else {
                break;
            };
            if !tried.is_empty() {
                self.metrics.retries.inc();
            }
            let at_target = self.outstanding.begin(target.address);
            let mut request =
                new_request(canonical, headers, &admission, statement.as_ref(), target.address, &body)?;
            if let Some(key) = &key {
                key.apply(request.headers_mut());
            }
            let client = if canonical.is_grpc() { &self.http2 } else { &self.http1 };
            match client.request(request).await {
                Ok(response) if !is_expected(canonical, key.as_ref(), &response) => {
                    return Err(Refusal::UpstreamFailed { service });
                }
                Ok(response) => return Ok((response, at_target, admission)),
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

/// A service goes on in another protocol where that was asked for, in that one, and nowhere else.
fn is_expected(
    canonical: &CanonicalRequest,
    key: Option<&WebSocketKey>,
    response: &Response<Incoming>,
) -> bool {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Over HTTP/2 a success opens the WebSocket, so a service that did not agree must not say one.
        return !(canonical.is_translated() && response.status().is_success());
    }
    canonical.is_websocket()
        && is_websocket_answer(response.headers())
        && key.is_none_or(|key| key.is_answered_by(response.headers()))
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
    statement: Option<&HeaderValue>,
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
    *request.headers_mut() = upstream_headers(canonical, headers, admission, statement);
    Ok(request)
}

/// Makes the client's answer out of the service's.
fn pass_on(
    response: Response<Incoming>,
    method: &Method,
    request_id: &str,
    open: OpenRequest,
    watch: Watch,
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
    let mut answer = Response::new(AnswerBody::Stream(StreamBody::new(body, open, watch)));
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
