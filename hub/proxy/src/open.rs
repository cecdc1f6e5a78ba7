//! Requests that are open, for how long, and what is known of them.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blueprint_hub_proxy_core::identity::Identity;
use blueprint_hub_proxy_core::usage::Used;
use blueprint_hub_proxy_core::{Admission, Refusal};
use http::StatusCode;
use tracing::{debug, info};

use crate::access_log::{AccessLog, Entry};
use crate::connector::Dialed;
use crate::ledger::Ledger;
use crate::limits::Permit;
use crate::metrics::{Cut, ProxyMetrics};
use crate::send::Tries;
use crate::upstreams::AtTarget;

/// Bytes of the bodies of one request, counted where they pass outside of its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted(Arc<(AtomicU64, AtomicU64)>);

impl Counted {
    /// So many came from the client.
    pub(crate) fn receive(&self, bytes: usize) {
        self.0.0.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// So many went to the client.
    pub(crate) fn send(&self, bytes: usize) {
        self.0.1.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn both(&self) -> (u64, u64) {
        (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed))
    }
}

/// Where what was seen of requests goes.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) ledger: Ledger,
    pub(crate) access: AccessLog,
}

/// What the log says of a credential that was not given.
const DENIED: &str = "credential_denied";

/// How often what is open for long is added to the sums.
pub(crate) const SETTLE_EVERY: Duration = Duration::from_secs(5);

/// What of a request is in the sums already.
#[derive(Debug)]
struct Settled {
    at: Instant,
    is_counted: bool,
    bytes: (u64, u64),
}

/// One request from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct OpenRequest(Box<Open>);

/// Behind a pointer: it moves from the head of a request to the end of its answer.
#[derive(Debug)]
struct Open {
    seen: Arc<Seen>,
    started_at: Instant,
    entry: Entry,
    /// `None` for a request without a body, as most are.
    counted: Option<Counted>,
    /// Bytes that went to the client from its answer.
    sent: u64,
    settled: Settled,
    /// A service has answered it.
    is_answered: bool,
    held: Option<(AtTarget, Permit)>,
}

impl Open {
    /// Bytes of its bodies: from the client, and to it.
    fn bytes(&self) -> (u64, u64) {
        let (received, sent) = self.counted.as_ref().map_or((0, 0), Counted::both);
        (received, sent.saturating_add(self.sent))
    }
}

impl OpenRequest {
    pub(crate) fn begin(seen: Arc<Seen>, entry: Entry) -> Self {
        seen.metrics.open.inc();
        let now = Instant::now();
        let settled = Settled { at: now, is_counted: false, bytes: (0, 0) };
        Self(Box::new(Open {
            seen,
            started_at: now,
            entry,
            counted: None,
            sent: 0,
            settled,
            is_answered: false,
            held: None,
        }))
    }

    /// What is known of it, to add to.
    pub(crate) fn entry(&mut self) -> &mut Entry {
        &mut self.0.entry
    }

    /// When its head was there.
    pub(crate) const fn started_at(&self) -> Instant {
        self.0.started_at
    }

    /// Counts the bytes of its bodies that pass outside of its answer.
    pub(crate) fn counted(&mut self) -> &Counted {
        self.0.counted.get_or_insert_default()
    }

    /// So many bytes of its answer went to the client.
    pub(crate) fn send(&mut self, bytes: usize) {
        self.0.sent = self.0.sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Notes the status that the client gets.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.0.entry.status = Some(status);
    }

    /// Notes that it was refused, by whatever rule, and where it wanted to go.
    pub(crate) fn note_refusal(&mut self, refusal: &Refusal) {
        self.0.entry.refused = Some(refusal.code());
        self.0.seen.ledger.count_refused(refusal.code());
        self.0.seen.metrics.count_refusal(refusal);
        if refusal.is_by_rule() {
            let Entry { service, source, ref identity, .. } = self.0.entry;
            self.0.seen.ledger.refuse(service, refusal.code(), Some(source), identity.as_deref());
        }
    }

    /// Notes that one of the proxy's own routes gave no credential, in the words of its clients.
    pub(crate) fn note_denied(&mut self, status: StatusCode) {
        let denies = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if denies && self.0.entry.refused.is_none() {
            self.0.entry.refused = Some(DENIED);
            self.0.seen.ledger.count_refused(DENIED);
            self.0.seen.ledger.refuse(None, DENIED, Some(self.0.entry.source), None);
        }
    }

    /// Notes who sent it.
    pub(crate) fn note_caller(&mut self, identity: &Identity) {
        let root = identity.root_id();
        let entry = &mut self.0.entry;
        entry.auth = Some(identity.method().name());
        entry.credential = (*identity.id() != *root).then(|| identity.id().to_owned());
        entry.identity = Some(root);
    }

    /// Notes that it may go on, and to which service.
    pub(crate) fn note_admission(&mut self, admission: &Admission, now: Instant) {
        self.note_caller(admission.identity());
        self.0.entry.service = Some(admission.service());
        self.0.entry.decided = Some(now.saturating_duration_since(self.0.started_at));
    }

    /// Notes where it was sent and how long that took; `answered` is when the head of an answer came, if one did, and
    /// over which connection.
    pub(crate) fn note_tries(&mut self, tries: &Tries, answered: Option<(Instant, Option<Dialed>)>) {
        if tries.count == 0 {
            return;
        }
        self.0.is_answered = answered.is_some();
        let (now, dialed) = answered.unwrap_or_else(|| (Instant::now(), None));
        let took = now.saturating_duration_since(self.0.started_at);
        let took = took.saturating_sub(self.0.entry.decided.unwrap_or_default());
        // A connection that is older was opened for another request.
        let opened = dialed.filter(|dialed| dialed.began_at >= self.0.started_at).map(|dialed| dialed.took);
        let failed = Some(tries.connecting).filter(|connecting| !connecting.is_zero());
        let entry = &mut self.0.entry;
        (entry.target, entry.tries) = (tries.target, Some(tries.count));
        entry.connected = opened.map(|opened| opened.saturating_add(tries.connecting)).or(failed);
        entry.upstream = Some(took.saturating_sub(entry.connected.unwrap_or_default()));
        if self.0.is_answered {
            self.0.seen.metrics.first_byte.observe(took.as_secs_f64());
        }
    }

    /// Adds to the sums what is not in them yet, where the last time is long enough ago.
    pub(crate) fn settle_now_and_then(&mut self, now: Instant) {
        if now.saturating_duration_since(self.0.settled.at) >= SETTLE_EVERY {
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Instant) {
        let Some(service) = self.0.entry.service else { return };
        let open = now.saturating_duration_since(self.0.settled.at);
        let (received, sent) = self.0.bytes();
        let before = std::mem::replace(
            &mut self.0.settled,
            Settled { at: now, is_counted: true, bytes: (received, sent) },
        );
        let once = |is_so: bool| u64::from(is_so && !before.is_counted);
        let used = Used {
            requests: once(self.0.is_answered),
            refused: once(self.0.entry.refused.is_some()),
            bytes_in: received.saturating_sub(before.bytes.0),
            bytes_out: sent.saturating_sub(before.bytes.1),
            open,
        };
        self.0.seen.ledger.add(service, self.0.entry.identity.as_deref(), &used);
    }

    /// Keeps the request counted at its target and for its client.
    pub(crate) fn hold(&mut self, target: AtTarget, permit: Permit) {
        self.0.held = Some((target, permit));
    }

    /// Notes that the client's body was cut for its size after the head of the answer was passed on.
    pub(crate) fn note_too_large(&mut self, most: u64) {
        self.note_refusal(&Refusal::BodyTooLarge { most });
    }

    /// Notes that the hub cut what was open, because what let it in does not hold any more.
    pub(crate) fn note_cut(&mut self, refusal: &Refusal) {
        // It was let in and answered: in the sums it is no refusal.
        self.settle(Instant::now());
        self.0.entry.refused = Some(refusal.code());
        self.0.seen.metrics.count_revoked();
        let request_id = self.0.entry.request_id.as_str();
        info!(target: "audit", reason = refusal.code(), request_id, "open request cut");
    }

    /// Notes that the hub cut the answer, because its client does not read it.
    pub(crate) fn note_slow_reader(&self) {
        self.0.seen.metrics.count_cut(Cut::SlowReader);
        debug!(request_id = self.0.entry.request_id.as_str(), "answer cut, the client does not read it");
    }

    /// Notes that the answer broke off after its head was passed on.
    pub(crate) fn note_abort(&self, error: &(dyn Error + 'static)) {
        self.0.seen.metrics.aborted.inc();
        let request_id = self.0.entry.request_id.as_str();
        debug!(request_id, error = %blueprint_common_runtime::Chain(error), "answer broke off");
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.0.started_at);
        let metrics = &self.0.seen.metrics;
        metrics.count_request(self.0.entry.status, took);
        self.settle(now);
        self.0.entry.write(self.0.seen.access, took, self.0.bytes());
        // Last: where none is open, all are counted.
        self.0.seen.metrics.open.dec();
    }
}
