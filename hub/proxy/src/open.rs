//! Requests that are open, for how long, and what is known of them.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

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
use crate::upstreams::AtTarget;

/// Bytes of the bodies of one request, counted where they pass.
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

/// One request from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    seen: Seen,
    started_at: Instant,
    entry: Box<Entry>,
    counted: Counted,
    held: Option<Box<(AtTarget, Permit)>>,
}

impl OpenRequest {
    pub(crate) fn begin(seen: Seen, entry: Entry) -> Self {
        seen.metrics.open.inc();
        Self {
            seen,
            started_at: Instant::now(),
            entry: Box::new(entry),
            counted: Counted::default(),
            held: None,
        }
    }

    /// What is known of it, to add to.
    pub(crate) fn entry(&mut self) -> &mut Entry {
        &mut self.entry
    }

    /// Counts the bytes of its bodies.
    pub(crate) fn counted(&self) -> Counted {
        self.counted.clone()
    }

    /// Notes the status that the client gets.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.entry.status = Some(status);
    }

    /// Notes that it was refused, by whatever rule, and where it wanted to go.
    pub(crate) fn note_refusal(&mut self, refusal: &Refusal) {
        self.entry.refused = Some(refusal.code());
        self.seen.metrics.count_refusal(refusal);
        if refusal.is_by_rule() {
            let Entry { service, source, ref identity, .. } = *self.entry;
            self.seen.ledger.refuse(service, refusal.code(), source, identity.as_deref());
        }
    }

    /// Notes who sent it.
    pub(crate) fn note_caller(&mut self, identity: &Identity) {
        self.entry.auth = Some(identity.method().name());
        self.entry.identity = Some(identity.id().to_owned());
    }

    /// Notes that it may go on, and to which service.
    pub(crate) fn note_admission(&mut self, admission: &Admission) {
        self.note_caller(admission.identity());
        self.entry.service = Some(admission.service());
        self.entry.decided = Some(self.started_at.elapsed());
    }

    /// Notes that the head of an answer came, and the connection that it came over.
    pub(crate) fn note_answer(&mut self, at_target: &AtTarget, dialed: Option<&Dialed>) {
        let entry = &mut self.entry;
        entry.target = Some(at_target.address());
        let took = self.started_at.elapsed().saturating_sub(entry.decided.unwrap_or_default());
        entry.answered = Some(took);
        // A connection that is older was opened for another request.
        entry.connected =
            dialed.filter(|dialed| dialed.began_at >= self.started_at).map(|dialed| dialed.took);
        self.seen.metrics.first_byte.observe(took.as_secs_f64());
    }

    /// Keeps the request counted at its target and for its client.
    pub(crate) fn hold(&mut self, target: AtTarget, permit: Permit) {
        self.held = Some(Box::new((target, permit)));
    }

    /// Notes that the client's body was cut for its size after the head of the answer was passed on.
    pub(crate) fn note_too_large(&self, most: u64) {
        self.seen.metrics.count_refusal(&Refusal::BodyTooLarge { most });
    }

    /// Notes that the hub cut what was open, because what let it in does not hold any more.
    pub(crate) fn note_cut(&self, refusal: &Refusal) {
        self.seen.metrics.count_revoked();
        let request_id = &self.entry.request_id;
        info!(target: "audit", reason = refusal.code(), request_id, "open request cut");
    }

    /// Notes that the hub cut the answer, because its client does not read it.
    pub(crate) fn note_slow_reader(&self) {
        self.seen.metrics.count_cut(Cut::SlowReader);
        debug!(request_id = self.entry.request_id, "answer cut, the client does not read it");
    }

    /// Notes that the answer broke off after its head was passed on.
    pub(crate) fn note_abort(&self, error: &(dyn Error + 'static)) {
        self.seen.metrics.aborted.inc();
        let request_id = &self.entry.request_id;
        debug!(request_id, error = %blueprint_common_runtime::Chain(error), "answer broke off");
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let took = self.started_at.elapsed();
        let metrics = &self.seen.metrics;
        metrics.open.dec();
        metrics.count_request(self.entry.status, took);
        let (bytes_in, bytes_out) = self.counted.both();
        if let Some(service) = self.entry.service {
            let refused = u64::from(self.entry.refused.is_some());
            let requests = u64::from(self.entry.target.is_some());
            let used = Used { requests, refused, bytes_in, bytes_out, open: took };
            self.seen.ledger.add(service, self.entry.identity.as_deref(), &used);
        }
        self.entry.write(self.seen.access, took, (bytes_in, bytes_out));
    }
}
