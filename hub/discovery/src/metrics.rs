//! Counters of the DNS server.

use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Counters, prefix `hub_dns_`.
#[derive(Debug, Clone, Default)]
pub(crate) struct DnsMetrics {
    queries: Family<Vec<(&'static str, &'static str)>, Counter<u64, AtomicU64>>,
}

impl DnsMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_dns");
            registry.register("queries", "Questions to the overlay's DNS by result", this.queries.clone());
        });
        this
    }

    /// Counts one question.
    pub(crate) fn query(&self, result: &'static str) {
        self.queries.get_or_create(&vec![("result", result)]).inc();
    }
}
