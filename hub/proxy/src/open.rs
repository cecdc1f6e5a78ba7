//! Requests that are open: how many at each target, and for how long.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use blueprint_hub_proxy_core::Refusal;
use http::StatusCode;
use parking_lot::Mutex;
use tracing::{debug, info};

use crate::metrics::{Cut, ProxyMetrics};

/// Open requests by target; an address without any takes no room.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outstanding(Arc<Mutex<BTreeMap<SocketAddr, usize>>>);

impl Outstanding {
    /// Requests open at `target` now.
    pub(crate) fn at(&self, target: &SocketAddr) -> usize {
        self.0.lock().get(target).copied().unwrap_or(0)
    }

    /// Counts one more until the result is dropped.
    pub(crate) fn begin(&self, target: SocketAddr) -> AtTarget {
        let mut open = self.0.lock();
        let count = open.entry(target).or_insert(0);
        *count = count.saturating_add(1);
        AtTarget { outstanding: self.clone(), target }
    }
}

/// One request that is open at a target.
#[derive(Debug)]
pub(crate) struct AtTarget {
    outstanding: Outstanding,
    target: SocketAddr,
}

impl Drop for AtTarget {
    fn drop(&mut self) {
        let mut open = self.outstanding.0.lock();
        if let Some(count) = open.get_mut(&self.target) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.target);
            }
        }
    }
}

/// One request from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    metrics: Arc<ProxyMetrics>,
    started_at: Instant,
    request_id: String,
    status: Option<StatusCode>,
    target: Option<AtTarget>,
}

impl OpenRequest {
    pub(crate) fn begin(metrics: Arc<ProxyMetrics>) -> Self {
        metrics.open.inc();
        Self { metrics, started_at: Instant::now(), request_id: String::new(), status: None, target: None }
    }

    /// Names the request for the log.
    pub(crate) fn set_request_id(&mut self, request_id: &str) {
        request_id.clone_into(&mut self.request_id);
    }

    /// Notes the status that the client gets.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Keeps the request counted at its target.
    pub(crate) fn set_target(&mut self, target: AtTarget) {
        self.target = Some(target);
    }

    /// Notes that the hub cut what was open, because what let it in does not hold any more.
    pub(crate) fn note_cut(&self, refusal: &Refusal) {
        self.metrics.count_revoked();
        info!(target: "audit", reason = refusal.code(), request_id = self.request_id, "open request cut");
    }

    /// Notes that the hub cut the answer, because its client does not read it.
    pub(crate) fn note_slow_reader(&self) {
        self.metrics.count_cut(Cut::SlowReader);
        debug!(request_id = self.request_id, "answer cut, the client does not read it");
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
