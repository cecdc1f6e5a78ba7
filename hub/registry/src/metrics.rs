//! Metrics of the control plane.

use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

type Labelled = Family<Vec<(&'static str, &'static str)>, Counter<u64, AtomicU64>>;

/// Counters of the control plane, prefix `hub_control_`.
#[derive(Debug, Clone)]
pub(crate) struct ControlMetrics {
    joins: Labelled,
    handshakes: Labelled,
    refused: Labelled,
    audit_suppressed: Counter,
    sessions: Gauge,
}

impl ControlMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self {
            joins: Labelled::default(),
            handshakes: Labelled::default(),
            refused: Labelled::default(),
            audit_suppressed: Counter::default(),
            sessions: Gauge::default(),
        };
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_control");
            registry.register("joins", "Joins by result", this.joins.clone());
            registry.register(
                "tls_handshake_failures",
                "Failed TLS handshakes by reason",
                this.handshakes.clone(),
            );
            registry.register("calls_refused", "Refused calls of agents by reason", this.refused.clone());
            registry.register(
                "audit_rows_suppressed",
                "Audit rows of strangers over the budget",
                this.audit_suppressed.clone(),
            );
            registry.register("sessions", "Open control streams", this.sessions.clone());
        });
        this
    }

    pub(crate) fn joins(&self, result: &'static str) {
        self.joins.get_or_create(&vec![("result", result)]).inc();
    }

    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshakes.get_or_create(&vec![("reason", reason)]).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&vec![("reason", reason)]).inc();
    }

    pub(crate) fn audit_suppressed(&self) {
        self.audit_suppressed.inc();
    }

    pub(crate) fn session_opened(&self) {
        self.sessions.inc();
    }

    pub(crate) fn session_closed(&self) {
        self.sessions.dec();
    }
}
