//! One request: decided by the core, sent to a target, answered.

mod begin;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy_core::guard::FramingFault;
use blueprint_hub_proxy_core::pace::LeastRate;
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::{Refusal, ServiceSettings, Trust, response_headers};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::begin::{Admitted, Begun, Next};
use crate::answer::{self, REQUEST_ID};
use crate::auth::AuthApi;
use crate::body::{AnswerBody, ClientBody, StreamBody};
use crate::connector::Connector;
use crate::guarded::Framing;
use crate::ids::RequestIds;
use crate::jwks::Jwks;
use crate::limits::Limiter;
use crate::open::{OpenRequest, Seen};
use crate::pressure::Pressure;
use crate::send::{Answered, Outgoing, Sender, Tries};
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

    /// Answers one request, whatever it is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the answer's body ends the request at the service too.
    pub(crate) async fn answer(
        &self,
        conversation: &Conversation,
        request: Request<ClientBody>,
    ) -> Response<AnswerBody> {
        let begun = self.begin(conversation, 0, request);
        self.finish(conversation, begun).await
    }

    /// Answers a request that has begun.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the answer's body ends the request at the service too.
    pub(crate) async fn finish(&self, conversation: &Conversation, begun: Begun) -> Response<AnswerBody> {
        let Begun { mut open, request_id, next } = begun;
        let answer = match next {
            Next::Refuse(refusal, _unread) => self.own(Err(refusal), &request_id, open),
            Next::Own(asked) => {
                let (route, canonical, body) = *asked;
                let answered = Box::pin(self.auth.answer(route, &canonical, body)).await;
                self.own(answered, &request_id, open)
            }
            Next::Send(mut admitted) => match self.send(&mut admitted, &mut open).await {
                Ok((response, at_target)) => {
                    let Admitted { permit, body, version, method, upgrade, watch, .. } = *admitted;
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
                            let answer = |of_service| StreamBody::new(of_service, open, watch, body);
                            pass_on(response, &method, request_id, answer)
                        }
                    }
                }
                Err(refusal) => {
                    drop(admitted);
                    self.own(Err(refusal), &request_id, open)
                }
            },
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

    /// Sends what is admitted, for as long as that holds.
    async fn send(
        &self,
        admitted: &mut Admitted,
        open: &mut OpenRequest,
    ) -> Result<(Response<ServiceBody>, AtTarget), Refusal> {
        let Admitted { canonical, prepared, key, admission, trust, body, headers, watch, .. } = admitted;
        let service = admission.service();
        let outgoing = Outgoing {
            canonical,
            prepared,
            key: key.as_ref(),
            admission,
            targets: trust.routes.targets(&service).unwrap_or_default(),
            settings: &self.settings(trust, service).upstream,
            body,
            decided_at: admitted.decided_at,
        };
        let mut tries = Tries::default();
        let sent = tokio::select! {
            biased;
            sent = self.sender.send(&outgoing, std::mem::take(headers), &mut tries) => sent,
            refusal = watch.ended() => {
                self.seen.metrics.count_revoked();
                Err(refusal)
            }
        };
        let answered = sent.as_ref().ok().map(|(answered, _)| (answered.at.into_std(), answered.dialed));
        open.note_tries(&tries, answered);
        let (Answered { response, .. }, at_target) = sent?;
        body.note_answer();
        Ok((response, at_target))
    }
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
