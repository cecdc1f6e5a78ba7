//! One request: decided by the core, sent to a target, answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::guard::FramingFault;
use blueprint_hub_proxy_core::{
    Admission, CanonicalRequest, Downstream, Refusal, ServiceSettings, Trust, decide, response_headers,
};
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::answer::{self, REQUEST_ID};
use crate::auth::{AuthApi, Route};
use crate::body::{AnswerBody, RequestBody, StreamBody};
use crate::connector::Connector;
use crate::guarded::Framing;
use crate::limits::{Limiter, Permit};
use crate::metrics::ProxyMetrics;
use crate::open::OpenRequest;
use crate::send::{Outgoing, Sender};
use crate::server::ProxyParts;
use crate::statements::Statements;
use crate::upgraded;
use crate::upstreams::{AtTarget, Targets};
use crate::watch::Watch;

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

/// A request that a target has answered, and what it holds until it ends.
struct Sent {
    response: Response<Incoming>,
    at_target: AtTarget,
    permit: Permit,
    admission: Admission,
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
    no_settings: ServiceSettings,
    metrics: Arc<ProxyMetrics>,
    drain: CancellationToken,
}

impl Forwarder {
    pub(crate) fn new(
        domain: String,
        parts: &ProxyParts,
        connector: Connector,
        metrics: Arc<ProxyMetrics>,
        spawner: &Spawner,
    ) -> Self {
        let targets = Targets::new(Arc::clone(&metrics));
        Self {
            domain,
            trust: Arc::clone(&parts.trust),
            auth: AuthApi::new(Arc::clone(&parts.trust), Arc::clone(&parts.keys), Arc::clone(&parts.signer)),
            statements: Statements::new(Arc::clone(&parts.signer)),
            spawner: spawner.clone(),
            sender: Sender::new(
                connector,
                targets.clone(),
                Arc::clone(&parts.trust),
                Arc::clone(&metrics),
                spawner,
            ),
            targets,
            limiter: Limiter::default(),
            no_settings: ServiceSettings::default(),
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
        mut request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let mut open = OpenRequest::begin(Arc::clone(&self.metrics));
        let fresh_id = fresh_request_id();
        let (source, tls) = (conversation.source, conversation.tls);
        let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
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
        let upload = RequestBody::new(body);
        let sent = match parsed {
            Ok(canonical) => self.forward(&canonical, &parts.headers, &upload).await,
            Err(refusal) => Err(refusal),
        };
        let answer = match sent {
            Ok(Sent { response, at_target, permit, admission }) => {
                open.set_status(response.status());
                open.hold(at_target, permit);
                let watch = Watch::new(admission, Arc::clone(&self.trust));
                match upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
                    Some(client) => {
                        conversation.upgraded();
                        return self.upgrade(client, response, &request_id, open, watch);
                    }
                    None => {
                        let answer = |body| StreamBody::new(body, open, watch, upload);
                        pass_on(response, &parts.method, &request_id, answer)
                    }
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
        request_id: &str,
        open: OpenRequest,
        watch: Watch,
    ) -> Response<AnswerBody> {
        let service = hyper::upgrade::on(&mut response);
        self.spawner.spawn("proxy upgraded", upgraded::join(client, service, open, watch));
        let mut headers = response_headers(response.headers());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(value) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, value);
        }
        let mut answer = Response::new(AnswerBody::Own(Full::default()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        answer
    }

    /// Decides, and sends what is admitted.
    async fn forward(
        &self,
        canonical: &CanonicalRequest,
        headers: &HeaderMap,
        body: &RequestBody,
    ) -> Result<Sent, Refusal> {
        if self.drain.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let trust = self.trust.load_full();
        let now = Timestamp::from(SystemTime::now());
        let admission = decide(canonical, &trust, now).inspect_err(|refusal| {
            if let Refusal::NoHealthyTarget { service, .. } = refusal {
                self.targets.forget(*service);
            }
        })?;
        let service = admission.service();
        let settings = trust.services.get(&service).map_or(&self.no_settings, |known| known.settings());
        body.limit(settings.limits.body_limit(&settings.key_limits))?;
        let permit = self.limiter.begin(&admission, settings)?;
        let statement = self.statements.of(&admission, now);
        let outgoing = Outgoing {
            canonical,
            headers,
            admission: &admission,
            statement: statement.as_ref(),
            targets: trust.routes.targets(&service).unwrap_or_default(),
            settings: &settings.upstream,
            body,
        };
        let (response, at_target) = self.sender.send(&outgoing).await?;
        Ok(Sent { response, at_target, permit, admission })
    }
}

/// Makes the client's answer out of the service's.
fn pass_on(
    response: Response<Incoming>,
    method: &Method,
    request_id: &str,
    stream: impl FnOnce(Incoming) -> StreamBody,
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
    let mut answer = Response::new(AnswerBody::Stream(stream(body)));
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
