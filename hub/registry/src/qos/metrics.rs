//! Counters of quality of service.

use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

type Labelled = Family<Vec<(&'static str, &'static str)>, Counter<u64, AtomicU64>>;

/// Counters, prefix `hub_qos_`.
#[derive(Debug, Clone, Default)]
pub struct QosMetrics {
    samples: Labelled,
    refused: Labelled,
    failures: Counter,
    forgotten: Labelled,
    rows: Family<Vec<(&'static str, &'static str)>, Gauge>,
}

impl QosMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_qos");
            registry.register("samples", "Samples of machines and services by result", this.samples.clone());
            registry.register("calls_refused", "Refused calls of machines by reason", this.refused.clone());
            registry.register("write_failures", "Writes of history that failed", this.failures.clone());
            registry.register("rows_forgotten", "Rows of history deleted by reason", this.forgotten.clone());
            registry.register("rows", "Rows of history by kind", this.rows.clone());
        });
        this
    }

    pub(super) fn sample(&self, result: &'static str, count: u64) {
        if count > 0 {
            self.samples.get_or_create(&vec![("result", result)]).inc_by(count);
        }
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&vec![("reason", reason)]).inc();
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }

    pub(super) fn forgotten(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.forgotten.get_or_create(&vec![("reason", reason)]).inc_by(count);
        }
    }

    pub(super) fn rows(&self, kind: &'static str, count: u64) {
        self.rows.get_or_create(&vec![("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
