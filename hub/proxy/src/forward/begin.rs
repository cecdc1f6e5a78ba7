//! The first half of a request: read and judged, with nothing sent yet.

use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::{
    Admission, CanonicalRequest, Downstream, Refusal, ServiceSettings, Trust, WebSocketKey, caller, decide,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::{Conversation, Forwarder};
use crate::access_log::Entry;
use crate::auth::Route;
use crate::body::{ClientBody, RequestBody};
use crate::limits::Permit;
use crate::open::OpenRequest;
use crate::send::{Prepared, prepare};
use crate::upgraded;
use crate::watch::{Timers, Watch};

/// A request whose head was read and judged; nothing of it was sent.
///
/// It holds nothing of the buffer that the client's bytes came in: the HTTP library can read on into the same.
pub(crate) struct Begun {
    pub(super) open: OpenRequest,
    pub(super) request_id: HeaderValue,
    pub(super) next: Next,
}

/// What becomes of a request that has begun.
pub(super) enum Next {
    /// The hub says why not. What the client still sends is let go once that is said: before it the HTTP library would
    /// close what it reads.
    Refuse(Refusal, Unread),
    /// The hub answers it itself.
    Own(Box<(Route, CanonicalRequest, ClientBody)>),
    /// A service gets it.
    Send(Box<Admitted>),
}

/// A body that nobody wants.
pub(super) enum Unread {
    /// As it came.
    Whole { _body: ClientBody },
    /// Of a request that was read already.
    Shared { _body: RequestBody },
}

/// A request that may go to a service, and what its answer needs.
pub(super) struct Admitted {
    pub(super) canonical: CanonicalRequest,
    pub(super) prepared: Prepared,
    pub(super) key: Option<WebSocketKey>,
    pub(super) admission: Arc<Admission>,
    /// What it was judged by.
    pub(super) trust: Arc<Trust>,
    pub(super) decided_at: Instant,
    pub(super) permit: Permit,
    pub(super) body: RequestBody,
    /// The client's, emptied: room for those of the answer.
    pub(super) headers: HeaderMap,
    pub(super) version: Version,
    pub(super) method: Method,
    pub(super) upgrade: Option<OnUpgrade>,
    pub(super) watch: Watch,
}

/// What a client sent, less what is read already.
struct Received {
    method: Method,
    version: Version,
    headers: HeaderMap,
    body: RequestBody,
    upgrade: Option<OnUpgrade>,
}

impl Forwarder {
    /// Reads and judges one request; `number` is its place on a connection of HTTP/1. [`Self::finish`] comes next.
    pub(crate) fn begin(
        &self,
        conversation: &Conversation,
        number: u64,
        mut request: Request<ClientBody>,
    ) -> Begun {
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
        let canonical = match parsed {
            Ok(canonical) => canonical,
            Err(refusal) => {
                let next = Next::Refuse(refusal, Unread::Whole { _body: body });
                return Begun { open, request_id, next };
            }
        };
        open.entry().set_request(canonical.method(), canonical.shared_path());
        if let Some(route) = Route::of(canonical.path()) {
            return Begun { open, request_id, next: Next::Own(Box::new((route, canonical, body))) };
        }
        let (method, version, headers) = essence(parts);
        // Both halves of a gRPC call may be silent for as long as they like.
        let least = (!canonical.is_grpc()).then_some(conversation.care.least_rate);
        let body = RequestBody::new(body, least, &mut open);
        let unread = body.clone();
        let received = Received { method, version, headers, body, upgrade };
        let next = match self.admit(canonical, received, &mut open, &conversation.timers) {
            Ok(admitted) => Next::Send(admitted),
            Err(refusal) => Next::Refuse(refusal, Unread::Shared { _body: unread }),
        };
        Begun { open, request_id, next }
    }

    /// Decides, and prepares what is admitted.
    fn admit(
        &self,
        canonical: CanonicalRequest,
        received: Received,
        open: &mut OpenRequest,
        timers: &Timers,
    ) -> Result<Box<Admitted>, Refusal> {
        if self.drain.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let trust = self.trust.load_full();
        let now = Timestamp::from(SystemTime::now());
        let admission = match decide(&canonical, &trust, now) {
            Ok(admission) => Arc::new(admission),
            Err(refusal) => {
                if let Refusal::NoHealthyTarget { service, .. } = &refusal {
                    self.targets.forget(*service);
                }
                note_refused(&canonical, &trust, now, open);
                return Err(refusal);
            }
        };
        let decided_at = Instant::now();
        open.note_admission(&admission, decided_at.into_std());
        let Received { method, version, mut headers, body, upgrade } = received;
        let settings = self.settings(&trust, admission.service());
        body.limit(settings.limits.body_limit(&settings.key_limits))?;
        let permit = self.limiter.begin(&admission, settings)?;
        let statement = self.statements.of(&admission, now);
        let key = upgraded::key(&canonical)?;
        let by = (&*admission, statement.as_ref());
        let prepared = prepare(&canonical, &headers, key.as_ref(), by, &body)?;
        headers.clear();
        let watch = Watch::new(Arc::clone(&admission), Arc::clone(&self.trust), timers.clone(), decided_at);
        Ok(Box::new(Admitted {
            canonical,
            prepared,
            key,
            admission,
            trust,
            decided_at,
            permit,
            body,
            headers,
            version,
            method,
            upgrade,
            watch,
        }))
    }

    pub(super) fn settings<'a>(&'a self, trust: &'a Trust, service: ServiceKey) -> &'a ServiceSettings {
        trust.services.get(&service).map_or(&self.no_settings, |known| known.settings())
    }
}

/// What else is known of a request is let go here: it holds the buffer that the client's bytes are in.
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
