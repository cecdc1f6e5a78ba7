//! One request on its way to a target, and to the next one where that is allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::upstream::UpstreamSettings;
use blueprint_hub_proxy_core::{
    Admission, CanonicalRequest, MAX_HEADERS, Refusal, Target, Trust, WebSocketKey, decide,
    is_websocket_answer, upstream_headers,
};
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::body::{LentBody, RequestBody};
use crate::connector::Connector;
use crate::executor::Executor;
use crate::fault::{Fault, outcome_of};
use crate::metrics::ProxyMetrics;
use crate::upstreams::{AtTarget, Targets};

/// How often a request is sent again at most.
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

/// How often it is looked whether a body that is still on its way is through.
const LOOK: Duration = Duration::from_millis(250);

/// An admitted request and where it may go.
pub(crate) struct Outgoing<'a> {
    pub(crate) canonical: &'a CanonicalRequest,
    pub(crate) headers: &'a HeaderMap,
    /// Of a WebSocket that came over HTTP/2.
    pub(crate) key: Option<&'a WebSocketKey>,
    pub(crate) admission: &'a Admission,
    pub(crate) statement: Option<&'a HeaderValue>,
    pub(crate) targets: &'a [Target],
    pub(crate) settings: &'a UpstreamSettings,
    pub(crate) body: &'a RequestBody,
}

/// Sends requests over pooled connections.
pub(crate) struct Sender {
    http1: Client<Connector, LentBody>,
    http2: Client<Connector, LentBody>,
    targets: Targets,
    trust: Arc<ArcSwap<Trust>>,
    metrics: Arc<ProxyMetrics>,
}

impl Sender {
    pub(crate) fn new(
        connector: Connector,
        targets: Targets,
        trust: Arc<ArcSwap<Trust>>,
        metrics: Arc<ProxyMetrics>,
        spawner: &Spawner,
    ) -> Self {
        Self {
            http1: pool(connector.clone(), spawner, false),
            http2: pool(connector, spawner, true),
            targets,
            trust,
            metrics,
        }
    }

    /// Sends it until a target answers, as often as its kind and the budget allow.
    pub(crate) async fn send(
        &self,
        outgoing: &Outgoing<'_>,
    ) -> Result<(Response<Incoming>, AtTarget), Refusal> {
        let Outgoing { canonical, admission, targets, settings, body, .. } = *outgoing;
        let service = admission.service();
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut failed: Option<Fault> = None;
        for attempt in 0..=MAX_RETRIES {
            let mut at_target = match failed {
                None => self.targets.begin(service, targets, settings, &tried)?,
                Some(fault) => {
                    // Much may have changed since: whom a service has, and who may call it.
                    let trust = self.trust.load_full();
                    decide(canonical, &trust, Timestamp::from(SystemTime::now()))?;
                    let targets = trust.routes.targets(&service).unwrap_or_default();
                    let began = self.targets.begin(service, targets, settings, &tried);
                    let at_target = began.map_err(|_| fault.refusal(service))?;
                    self.metrics.retries.inc();
                    at_target
                }
            };
            let request = new_request(outgoing, at_target.address())?;
            match self.ask(request, outgoing).await {
                Ok(response) if is_expected(outgoing, &response) => {
                    at_target.report(outcome_of(response.status()));
                    return Ok((response, at_target));
                }
                Ok(_) => {
                    at_target.report(Fault::Malformed.outcome());
                    return Err(Fault::Malformed.refusal(service));
                }
                Err(fault) => {
                    at_target.report(fault.outcome());
                    tried.push(at_target.address());
                    let may_again = attempt < MAX_RETRIES && fault.allows_retry(canonical.method(), body);
                    if !may_again || !self.targets.may_retry(service) {
                        return Err(fault.refusal(service));
                    }
                    failed = Some(fault);
                }
            }
        }
        Err(Refusal::TargetUnreachable { service })
    }

    /// Sends it once.
    async fn ask(
        &self,
        request: Request<LentBody>,
        outgoing: &Outgoing<'_>,
    ) -> Result<Response<Incoming>, Fault> {
        let (canonical, body) = (outgoing.canonical, outgoing.body);
        let client = if canonical.is_grpc() { &self.http2 } else { &self.http1 };
        let answered = async {
            client.request(request).await.map_err(|error| {
                let service = outgoing.admission.service();
                debug!(%service, request_id = canonical.request_id(), error = %Chain(&error), "target failed");
                Fault::of(&error, body)
            })
        };
        let Some(timeout) = outgoing.settings.response_header_timeout() else {
            return answered.await;
        };
        tokio::select! {
            biased;
            answer = answered => answer,
            () = waited(body, timeout) => Err(Fault::TimedOut),
        }
    }
}

/// Resolves once `timeout` is over since the whole request was sent: a slow upload is not a slow answer.
async fn waited(body: &RequestBody, timeout: Duration) {
    let began = Instant::now();
    loop {
        let now = Instant::now();
        let next = match body.sent_at() {
            Some(at) => at.max(began) + timeout,
            None => now + LOOK.min(timeout),
        };
        if next <= now {
            return;
        }
        sleep_until(next).await;
    }
}

/// A service goes on in another protocol where that was asked for, in that one, and nowhere else.
fn is_expected(outgoing: &Outgoing<'_>, response: &Response<Incoming>) -> bool {
    let (canonical, key) = (outgoing.canonical, outgoing.key);
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
fn new_request(outgoing: &Outgoing<'_>, target: SocketAddr) -> Result<Request<LentBody>, Refusal> {
    let Outgoing { canonical, headers, key, admission, statement, body, .. } = *outgoing;
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
    if !canonical.is_grpc() && body.is_open_ended() {
        // Said here, since the library leaves out the body of a GET whose length it does not know.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(key) = key {
        key.apply(request.headers_mut());
    }
    Ok(request)
}
