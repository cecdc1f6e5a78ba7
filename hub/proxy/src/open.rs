//! Requests that are open, and for how long.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use blueprint_hub_proxy_core::Refusal;
use http::StatusCode;
use tracing::{debug, info};

use crate::limits::Permit;
use crate::metrics::ProxyMetrics;
use crate::upstreams::AtTarget;

/// One request from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    metrics: Arc<ProxyMetrics>,
    started_at: Instant,
    request_id: String,
    status: Option<StatusCode>,
    held: Option<Box<(AtTarget, Permit)>>,
}

impl OpenRequest {
    pub(crate) fn begin(metrics: Arc<ProxyMetrics>) -> Self {
        metrics.open.inc();
        Self { metrics, started_at: Instant::now(), request_id: String::new(), status: None, held: None }
    }

    /// Names the request for the log.
    pub(crate) fn set_request_id(&mut self, request_id: &str) {
        request_id.clone_into(&mut self.request_id);
    }

    /// Notes the status that the client gets.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Keeps the request counted at its target and for its client.
    pub(crate) fn hold(&mut self, target: AtTarget, permit: Permit) {
        self.held = Some(Box::new((target, permit)));
    }

    /// Notes that the client's body was cut for its size after the head of the answer was passed on.
    pub(crate) fn note_too_large(&self, most: u64) {
        self.metrics.count_refusal(&Refusal::BodyTooLarge { most });
    }

    /// Notes that the hub cut what was open, because what let it in does not hold any more.
    pub(crate) fn note_cut(&self, refusal: &Refusal) {
        self.metrics.count_revoked();
        info!(target: "audit", reason = refusal.code(), request_id = self.request_id, "open request cut");
    }

    /// Notes that the answer broke off after its head was passed on.
    pub(crate) fn note_abort(&self, error: &(dyn Error + 'static)) {
        self.metrics.aborted.inc();
        debug!(request_id = self.request_id, error = %blueprint_common_runtime::Chain(error), "answer broke off");
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.metrics.open.dec();
        self.metrics.count_request(self.status, self.started_at.elapsed());
    }
}
