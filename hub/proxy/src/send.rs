//! One request on its way to a target, and to the next one where that is allowed.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::lanes::PerLane;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::upstream::UpstreamSettings;
use blueprint_hub_proxy_core::{
    Admission, CanonicalRequest, Field, Refusal, Target, Trust, WebSocketKey, decide, is_field_text,
    is_websocket_answer, upstream_fields, upstream_headers,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::body::{LentBody, RequestBody};
use crate::connector::{Connector, Dialed};
use crate::executor::Executor;
use crate::fault::{Fault, outcome_of};
use crate::hedge::hedge_after;
use crate::metrics::ProxyMetrics;
use crate::upstreams::{AtTarget, Targets};
use crate::wire::{self, BodyLength, Pool, Sending, ServiceBody};

/// How often a request is sent again at most.
const MAX_RETRIES: usize = 2;

/// Room for the head of a request, in bytes, so that most need no more.
const HEAD_ROOM: usize = 1024;

/// HTTP/2 flow-control windows towards services, in bytes: of one answer, and of one connection.
const UPSTREAM_WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// Most bytes in the headers of an answer over HTTP/2.
const UPSTREAM_HEADER_LIST: u32 = 64 * 1024;

/// How often it is looked whether a body that is still on its way is through.
const LOOK: Duration = Duration::from_millis(250);

/// An admitted request and where it may go.
pub(crate) struct Outgoing<'a> {
    pub(crate) canonical: &'a CanonicalRequest,
    pub(crate) prepared: &'a Prepared,
    /// Of a WebSocket that came over HTTP/2.
    pub(crate) key: Option<&'a WebSocketKey>,
    pub(crate) admission: &'a Admission,
    pub(crate) targets: &'a [Target],
    pub(crate) settings: &'a UpstreamSettings,
    pub(crate) body: &'a RequestBody,
    /// When it was admitted, which is when its first try begins.
    pub(crate) decided_at: Instant,
}

/// What every try sends, made before the first: what came from the client need not be kept for it.
pub(crate) enum Prepared {
    /// Over HTTP/1.1.
    Http1 {
        /// The head, without the name of the target and the empty line.
        head: Vec<u8>,
        /// What the head says of the body's length: decided once, so that both always agree.
        length: Option<BodyLength>,
    },
    /// The headers over HTTP/2.
    Http2(HeaderMap),
}

/// The answer to a request.
pub(crate) struct Answered {
    pub(crate) response: Response<ServiceBody>,
    /// When its head was there.
    pub(crate) at: Instant,
    /// How the connection came about that it came over.
    pub(crate) dialed: Option<Dialed>,
}

/// What is known of the tries of one request, however it ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    /// How many there were.
    pub(crate) count: u32,
    /// Where the last one went.
    pub(crate) target: Option<SocketAddr>,
    /// Time that went by until connections did not open, added up.
    pub(crate) connecting: Duration,
}

/// Sends requests over pooled connections.
pub(crate) struct Sender {
    http1: Pool,
    spawner: Spawner,
    http2: PerLane<Client<Connector, LentBody>>,
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
        let http1 = Pool::new(connector.clone());
        spawner.spawn_base("proxy idle targets", http1.clone().sweep());
        Self {
            http1,
            spawner: spawner.clone(),
            http2: PerLane::new(|| http2_pool(connector.clone(), spawner)),
            targets,
            trust,
            metrics,
        }
    }

    /// Sends it until a target answers, as often as its kind and the budget allow. `room` is for the answer; `tries`
    /// is right at any time, also where the future is dropped.
    pub(crate) async fn send(
        &self,
        outgoing: &Outgoing<'_>,
        room: HeaderMap,
        tries: &mut Tries,
    ) -> Result<(Answered, AtTarget), Refusal> {
        let Outgoing { canonical, admission, targets, settings, body, .. } = *outgoing;
        let service = admission.service();
        let mut tried: Vec<SocketAddr> = Vec::new();
        let (mut failed, mut room): (Option<Fault>, _) = (None, Some(room));
        let mut began = outgoing.decided_at;
        for attempt in 0..=MAX_RETRIES {
            let mut at_target = match failed {
                None => self.targets.begin(service, targets, settings, &tried, began.into_std())?,
                Some(fault) => {
                    began = Instant::now();
                    let begun = self.begin_again(outgoing, &tried, began)?;
                    let at_target = begun.map_err(|_| fault.refusal(service))?;
                    self.metrics.retries.inc();
                    at_target
                }
            };
            tries.count = tries.count.saturating_add(1);
            tries.target = Some(at_target.address());
            let to = (at_target.address(), began);
            let asked = match hedge_after(outgoing).filter(|_| attempt == 0) {
                None => self.ask(outgoing, to, room.take().unwrap_or_default()).await?,
                Some(after) => {
                    let asked = self.ask_hedged(outgoing, (at_target, began), after, &mut tried, tries);
                    let asked = Box::pin(asked).await?;
                    at_target = asked.1;
                    asked.0
                }
            };
            match asked {
                Ok(answered) if is_expected(outgoing, &answered.response) => {
                    at_target.report(outcome_of(answered.response.status()), answered.at.into_std());
                    return Ok((answered, at_target));
                }
                Ok(answered) => {
                    at_target.report(Fault::Malformed.outcome(), answered.at.into_std());
                    return Err(Fault::Malformed.refusal(service));
                }
                Err(fault) => {
                    let now = Instant::now();
                    if fault.is_unconnected() {
                        let took = now.saturating_duration_since(began);
                        tries.connecting = tries.connecting.saturating_add(took);
                    }
                    at_target.report(fault.outcome(), now.into_std());
                    tried.push(at_target.address());
                    let may_again = attempt < MAX_RETRIES && fault.allows_retry(canonical.method(), body);
                    if !may_again || !self.may_again(service) {
                        return Err(fault.refusal(service));
                    }
                    failed = Some(fault);
                }
            }
        }
        Err(Refusal::TargetUnreachable { service })
    }

    /// Counts the request at a target that is not in `tried`.
    ///
    /// # Errors
    ///
    /// A refusal where the request is not allowed any more; that no target is left is the inner result.
    fn begin_again(
        &self,
        outgoing: &Outgoing<'_>,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Result<Result<AtTarget, Refusal>, Refusal> {
        // Much may have changed since: whom a service has, and who may call it.
        let trust = self.trust.load_full();
        decide(outgoing.canonical, &trust, Timestamp::from(SystemTime::now()))?;
        let service = outgoing.admission.service();
        let targets = trust.routes.targets(&service).unwrap_or_default();
        Ok(self.targets.begin(service, targets, outgoing.settings, tried, now.into_std()))
    }

    /// Counts the request at a second target, as [`begin_again`](Self::begin_again) does, where one is without doubt and the
    /// budget has room.
    pub(crate) fn begin_second(
        &self,
        outgoing: &Outgoing<'_>,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<AtTarget> {
        let trust = self.trust.load_full();
        decide(outgoing.canonical, &trust, Timestamp::from(SystemTime::now())).ok()?;
        let service = outgoing.admission.service();
        let targets = trust.routes.targets(&service).unwrap_or_default();
        self.targets.begin_second(service, targets, outgoing.settings, tried, now.into_std())
    }

    /// Whether the service's budget has room for one more try.
    fn may_again(&self, service: ServiceKey) -> bool {
        self.targets.may_retry(service)
    }

    pub(crate) fn count_hedge(&self) {
        self.metrics.hedges.inc();
    }

    /// Sends it once, to that target and from that moment on.
    ///
    /// # Errors
    ///
    /// A refusal where no request can be made of it; the fault of the try is the inner result.
    pub(crate) async fn ask(
        &self,
        outgoing: &Outgoing<'_>,
        to: (SocketAddr, Instant),
        room: HeaderMap,
    ) -> Result<Result<Answered, Fault>, Refusal> {
        let body = outgoing.body;
        let answered = async {
            match outgoing.prepared {
                Prepared::Http1 { head, length } => {
                    Ok(self.ask_http1(outgoing, (head, *length), to, room).await)
                }
                Prepared::Http2(headers) => Box::pin(self.ask_http2(outgoing, headers, to.0)).await,
            }
        };
        let Some(timeout) = outgoing.settings.response_header_timeout() else {
            return answered.await;
        };
        tokio::select! {
            biased;
            answer = answered => answer,
            () = waited(body, timeout) => Ok(Err(Fault::TimedOut)),
        }
    }

    async fn ask_http1(
        &self,
        outgoing: &Outgoing<'_>,
        (head, length): (&[u8], Option<BodyLength>),
        (target, began): (SocketAddr, Instant),
        room: HeaderMap,
    ) -> Result<Answered, Fault> {
        let Outgoing { canonical, admission, body, .. } = *outgoing;
        let sending = Sending {
            target,
            began,
            head,
            method: canonical.method().clone(),
            headers: room,
            body: length.map(|length| (body.lend(), length)),
        };
        wire::send(&self.http1, sending, &self.spawner)
            .await
            .map(|sent| Answered { response: sent.response, at: sent.at, dialed: Some(sent.dialed) })
            .map_err(|error| {
                note_failed(admission, canonical, &error);
                Fault::of(&error, body)
            })
    }

    async fn ask_http2(
        &self,
        outgoing: &Outgoing<'_>,
        headers: &HeaderMap,
        target: SocketAddr,
    ) -> Result<Result<Answered, Fault>, Refusal> {
        Ok(match self.http2.own().request(new_request(outgoing, headers, target)?).await {
            Ok(response) => {
                let dialed = response.extensions().get::<Dialed>().copied();
                Ok(Answered { response: response.map(ServiceBody::Http2), at: Instant::now(), dialed })
            }
            Err(error) => {
                note_failed(outgoing.admission, outgoing.canonical, &error);
                Err(Fault::of_http2(&error, outgoing.body))
            }
        })
    }
}

fn note_failed(admission: &Admission, canonical: &CanonicalRequest, error: &(dyn Error + 'static)) {
    let (service, request_id) = (admission.service(), canonical.request_id());
    debug!(%service, request_id, error = %Chain(error), "target failed");
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
fn is_expected<B>(outgoing: &Outgoing<'_>, response: &Response<B>) -> bool {
    let (canonical, key) = (outgoing.canonical, outgoing.key);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Over HTTP/2 a success opens the WebSocket, so a service that did not agree must not say one.
        return !(canonical.is_translated() && response.status().is_success());
    }
    canonical.is_websocket()
        && is_websocket_answer(response.headers())
        && key.is_none_or(|key| key.is_answered_by(response.headers()))
}

/// A pool of connections that speak HTTP/2.
fn http2_pool(connector: Connector, spawner: &Spawner) -> Client<Connector, LentBody> {
    Client::builder(Executor::new("proxy upstream", spawner.clone()))
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(wire::IDLE)
        .pool_max_idle_per_host(wire::MAX_IDLE)
        .http2_initial_stream_window_size(UPSTREAM_WINDOWS.0)
        .http2_initial_connection_window_size(UPSTREAM_WINDOWS.1)
        .http2_max_header_list_size(UPSTREAM_HEADER_LIST)
        .http2_only(true)
        .build(connector)
}

/// Builds the request that a service gets over HTTP/2: target, headers and identity are ours, the body is
/// streamed.
fn new_request(
    outgoing: &Outgoing<'_>,
    headers: &HeaderMap,
    target: SocketAddr,
) -> Result<Request<LentBody>, Refusal> {
    let Outgoing { canonical, admission, body, .. } = *outgoing;
    let uri = Uri::builder()
        .scheme("http")
        .authority(target.to_string())
        .path_and_query(canonical.path_and_query())
        .build()
        .map_err(|_| Refusal::UpstreamFailed { service: admission.service() })?;
    let mut request = Request::new(body.lend());
    *request.method_mut() = canonical.method().clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().clone_from(headers);
    Ok(request)
}

/// Says what a service gets, in the version of HTTP in which it gets it.
///
/// # Errors
///
/// Where the request cannot be written on one line.
pub(crate) fn prepare(
    canonical: &CanonicalRequest,
    headers: &HeaderMap,
    key: Option<&WebSocketKey>,
    (admission, statement): (&Admission, Option<&HeaderValue>),
    body: &RequestBody,
) -> Result<Prepared, Refusal> {
    if canonical.is_grpc() {
        return Ok(Prepared::Http2(upstream_headers(canonical, headers, admission, statement)));
    }
    let is_plain = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if !is_plain(canonical.path()) || !canonical.query().is_none_or(is_plain) {
        return Err(Refusal::UpstreamFailed { service: admission.service() });
    }
    let mut head = Vec::with_capacity(HEAD_ROOM);
    for part in [canonical.method().as_str(), " ", canonical.path()] {
        head.extend_from_slice(part.as_bytes());
    }
    if let Some(query) = canonical.query() {
        head.push(b'?');
        head.extend_from_slice(query.as_bytes());
    }
    head.extend_from_slice(b" HTTP/1.1\r\n");
    match key {
        None => upstream_fields(canonical, headers, admission, statement, &mut |field| match field {
            Field::Copied(name, value) => put_field(&mut head, name.as_str(), value.as_bytes()),
            Field::Said(name, text) if is_field_text(text) => put_field(&mut head, name, text.as_bytes()),
            Field::Said(..) => {}
        }),
        Some(key) => {
            let mut headers = upstream_headers(canonical, headers, admission, statement);
            key.apply(&mut headers);
            headers.iter().for_each(|(name, value)| put_field(&mut head, name.as_str(), value.as_bytes()));
        }
    }
    let length = body.length();
    match length {
        None => {}
        // Writing to a buffer that grows cannot fail.
        Some(BodyLength::Sized(length)) => drop(write!(head, "content-length: {length}\r\n")),
        Some(BodyLength::Chunked) => put_field(&mut head, "transfer-encoding", b"chunked"),
    }
    Ok(Prepared::Http1 { head, length })
}

fn put_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.reserve(name.len().saturating_add(value.len()).saturating_add(4));
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
