//! One request: decided by the core, sent to a target, answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::guard::FramingFault;
use blueprint_hub_proxy_core::pace::LeastRate;
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::{
    CanonicalRequest, Downstream, Refusal, ServiceSettings, Trust, caller, decide, response_headers,
};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::access_log::Entry;
use crate::answer::{self, REQUEST_ID};
use crate::auth::{AuthApi, Route};
use crate::body::{AnswerBody, ClientBody, RequestBody, StreamBody};
use crate::connector::Connector;
use crate::guarded::Framing;
use crate::ids::RequestIds;
use crate::jwks::Jwks;
use crate::limits::{Limiter, Permit};
use crate::open::{OpenRequest, Seen};
use crate::pressure::Pressure;
use crate::send::{Answered, Outgoing, Sender, Tries, prepare};
use crate::server::ProxyParts;
use crate::statements::Statements;
use crate::upgraded;
use crate::upstreams::{AtTarget, Targets};
use crate::watch::{Timers, Watch};
use crate::wire::ServiceBody;

/// One connection of a client, as each request on it sees it.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    pub(crate) source: IpAddr,
    pub(crate) channel: Channel,
    /// On HTTP/1 only.
    pub(crate) framing: Option<Framing>,
    pub(crate) care: Care,
    pub(crate) timers: Timers,
}

/// What protects the hub from its clients' requests.
#[derive(Debug, Clone)]
pub(crate) struct Care {
    pub(crate) least_rate: LeastRate,
    pub(crate) pressure: Pressure,
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

/// A request that a target has answered, and what it holds until it ends.
struct Sent {
    response: Response<ServiceBody>,
    at_target: AtTarget,
    permit: Permit,
    watch: Watch,
}

/// What all requests share.
pub(crate) struct Forwarder {
    domain: String,
    trust: Arc<ArcSwap<Trust>>,
    auth: AuthApi,
    statements: Statements,
    spawner: Spawner,
    sender: Sender,
    targets: Targets,
    limiter: Limiter,
    ids: RequestIds,
    no_settings: ServiceSettings,
    seen: Arc<Seen>,
    drain: CancellationToken,
}

impl Forwarder {
    pub(crate) fn new(
        domain: String,
        parts: &ProxyParts,
        connector: Connector,
        seen: Seen,
        jwks: Option<Jwks>,
        spawner: &Spawner,
    ) -> Self {
        let targets = Targets::new(Arc::clone(&seen.metrics), seen.ledger.targets());
        Self {
            domain,
            trust: Arc::clone(&parts.trust),
            auth: AuthApi::new(parts, jwks, spawner.clone()),
            statements: Statements::new(Arc::clone(&parts.signer)),
            spawner: spawner.clone(),
            sender: Sender::new(
                connector,
                targets.clone(),
                Arc::clone(&parts.trust),
                Arc::clone(&seen.metrics),
                spawner,
            ),
            targets,
            limiter: Limiter::default(),
            ids: RequestIds::new(),
            no_settings: ServiceSettings::default(),
            seen: Arc::new(seen),
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
        let fresh_id = self.ids.fresh();
        let (source, tls) = (conversation.source, conversation.channel.is_tls());
        let mut open = OpenRequest::begin(Arc::clone(&self.seen), Entry::new(source, tls));
        open.entry().version = request.version();
        let upgrade = upgraded::asked(&mut request).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let downstream = Downstream { source, tls, domain: &self.domain, request_id: fresh_id.as_str() };
        let parsed = match conversation.fault(number) {
            Some(fault) => Err(Refusal::MalformedRequest { fault }),
            None if conversation.care.pressure.refuses() => Err(Refusal::Overloaded),
            None => CanonicalRequest::parse(&parts, &downstream)
                .map(|request| request.on_channel(conversation.channel.clone())),
        };
        let request_id = parsed.as_ref().map_or(fresh_id.as_str(), CanonicalRequest::request_id);
        open.entry().request_id = request_id.into();
        // Refused only where it is none that the core takes.
        let mut request_id =
            HeaderValue::from_str(request_id).unwrap_or_else(|_| HeaderValue::from_static("-"));
        // It comes once: HTTP/2 is not to keep it in its table of what comes again, and search that each time.
        request_id.set_sensitive(true);
        if let Ok(canonical) = &parsed {
            open.entry().set_request(canonical.method(), canonical.shared_path());
        }
        if let Ok(canonical) = &parsed
            && let Some(route) = Route::of(canonical.path())
        {
            let answered = Box::pin(self.auth.answer(route, canonical, body)).await;
            conversation.stays();
            return self.own(answered, &request_id, open);
        }
        // What else is known of the request is let go here: it holds the buffer that the client's bytes are in.
        let (method, version, headers) = essence(parts);
        // Both halves of a gRPC call may be silent for as long as they like.
        let may_rest = parsed.as_ref().is_ok_and(CanonicalRequest::is_grpc);
        let least = (!may_rest).then_some(conversation.care.least_rate);
        let upload = RequestBody::new(body, least, &mut open);
        let sent = match parsed {
            Ok(canonical) => {
                self.forward(&canonical, headers, &upload, &mut open, &conversation.timers).await
            }
            Err(refusal) => Err(refusal),
        };
        let answer = match sent {
            Ok(Sent { response, at_target, permit, watch }) => {
                open.set_status(response.status());
                open.hold(at_target, permit);
                match upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
                    Some(client) => {
                        conversation.upgraded();
                        open.entry().upgraded = true;
                        let status = upgraded::status(version);
                        open.set_status(status);
                        return self.upgrade(client, response, status, request_id, open, watch);
                    }
                    None => {
                        let answer = |body| StreamBody::new(body, open, watch, upload);
                        pass_on(response, &method, request_id, answer)
                    }
                }
            }
            Err(refusal) => self.own(Err(refusal), &request_id, open),
        };
        conversation.stays();
        answer
    }

    /// Finishes an answer of our own.
    fn own(
        &self,
        answered: Result<Response<AnswerBody>, Refusal>,
        request_id: &HeaderValue,
        mut open: OpenRequest,
    ) -> Response<AnswerBody> {
        let mut answer = answered.unwrap_or_else(|refusal| {
            open.note_refusal(&refusal);
            let request_id = request_id.to_str().unwrap_or_default();
            debug!(reason = refusal.code(), request_id, error = %refusal, "request refused");
            answer::refuse(&refusal, request_id)
        });
        answer.headers_mut().insert(REQUEST_ID, request_id.clone());
        open.set_status(answer.status());
        open.note_denied(answer.status());
        let length = answer.body().size_hint().exact();
        open.send(length.map_or(0, |length| usize::try_from(length).unwrap_or(0)));
        answer
    }

    /// Joins the two ends that have agreed to speak another protocol, and lets the client know.
    fn upgrade(
        &self,
        client: OnUpgrade,
        response: Response<ServiceBody>,
        status: StatusCode,
        request_id: HeaderValue,
        open: OpenRequest,
        watch: Watch,
    ) -> Response<AnswerBody> {
        let (parts, body) = response.into_parts();
        if let Some(service) = body.into_upgraded() {
            self.spawner.spawn("proxy upgraded", upgraded::join(client, service, open, watch));
        }
        let mut headers = upgraded::headers(parts.headers, status);
        headers.insert(REQUEST_ID, request_id);
        let mut answer = Response::new(AnswerBody::Own(Full::default()));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }

    /// Decides, and sends what is admitted.
    async fn forward(
        &self,
        canonical: &CanonicalRequest,
        mut headers: HeaderMap,
        body: &RequestBody,
        open: &mut OpenRequest,
        timers: &Timers,
    ) -> Result<Sent, Refusal> {
        if self.drain.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let trust = self.trust.load_full();
        let now = Timestamp::from(SystemTime::now());
        let admission = match decide(canonical, &trust, now) {
            Ok(admission) => Arc::new(admission),
            Err(refusal) => {
                if let Refusal::NoHealthyTarget { service, .. } = &refusal {
                    self.targets.forget(*service);
                }
                note_refused(canonical, &trust, now, open);
                return Err(refusal);
            }
        };
        let decided_at = Instant::now();
        open.note_admission(&admission, decided_at.into_std());
        let service = admission.service();
        let settings = trust.services.get(&service).map_or(&self.no_settings, |known| known.settings());
        body.limit(settings.limits.body_limit(&settings.key_limits))?;
        let permit = self.limiter.begin(&admission, settings)?;
        let statement = self.statements.of(&admission, now);
        let key = upgraded::key(canonical)?;
        let by = (&*admission, statement.as_ref());
        let prepared = prepare(canonical, &headers, key.as_ref(), by, body)?;
        headers.clear();
        let outgoing = Outgoing {
            canonical,
            prepared: &prepared,
            key: key.as_ref(),
            admission: &admission,
            targets: trust.routes.targets(&service).unwrap_or_default(),
            settings: &settings.upstream,
            body,
            decided_at,
        };
        let mut watch =
            Watch::new(Arc::clone(&admission), Arc::clone(&self.trust), timers.clone(), decided_at);
        let mut tries = Tries::default();
        let sent = tokio::select! {
            biased;
            sent = self.sender.send(&outgoing, headers, &mut tries) => sent,
            refusal = watch.ended() => {
                self.seen.metrics.count_revoked();
                Err(refusal)
            }
        };
        let answered = sent.as_ref().ok().map(|(answered, _)| (answered.at.into_std(), answered.dialed));
        open.note_tries(&tries, answered);
        let (Answered { response, .. }, at_target) = sent?;
        body.note_answer();
        Ok(Sent { response, at_target, permit, watch })
    }
}

fn essence(parts: Parts) -> (Method, Version, HeaderMap) {
    (parts.method, parts.version, parts.headers)
}

/// Notes whose request is refused, and for which service, where those exist: logs and sums tell them apart.
fn note_refused(canonical: &CanonicalRequest, trust: &Trust, now: Timestamp, open: &mut OpenRequest) {
    let caller = caller(canonical, trust, now);
    if let Some(identity) = &caller {
        open.note_caller(identity);
    }
    open.entry().service = match canonical.selector() {
        Some(selector) => trust.find(selector).ok(),
        None => caller.and_then(|identity| identity.only_service()),
    };
}

/// Makes the client's answer out of the service's.
fn pass_on(
    response: Response<ServiceBody>,
    method: &Method,
    request_id: HeaderValue,
    stream: impl FnOnce(ServiceBody) -> StreamBody,
) -> Response<AnswerBody> {
    let (parts, body) = response.into_parts();
    let mut headers = response_headers(parts.headers);
    // The length is that of the body at hand; only an answer without a body says it in words.
    if method != Method::HEAD && parts.status != StatusCode::NOT_MODIFIED {
        headers.remove(CONTENT_LENGTH);
    }
    headers.insert(REQUEST_ID, request_id);
    let mut answer = Response::new(AnswerBody::Stream(stream(body)));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers;
    answer
}
