//! Metrics of the provisioner, prefix `hub_provision_`; labels are closed lists and names of configured providers.

use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_hub_provision_core::lifecycle::RecordState;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

type Labels = Vec<(&'static str, &'static str)>;

/// What is counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProvisionMetrics {
    actions: Family<Labels, Counter<u64, AtomicU64>>,
    calls: Family<Labels, Counter<u64, AtomicU64>>,
    machines: Family<Labels, Gauge>,
    alarms: Gauge,
}

impl ProvisionMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_provision");
            registry.register("actions", "What was done about machines, by reason", this.actions.clone());
            registry.register("calls", "Calls to clouds by result", this.calls.clone());
            registry.register("machines", "Ordered machines by state", this.machines.clone());
            registry.register("alarms", "What a person should look at", this.alarms.clone());
        });
        this
    }

    pub(crate) fn acted(&self, action: &'static str, why: &'static str) {
        self.actions.get_or_create(&vec![("action", action), ("reason", why)]).inc();
    }

    pub(crate) fn called(&self, provider: &'static str, call: &'static str, result: &'static str) {
        self.calls.get_or_create(&vec![("provider", provider), ("call", call), ("result", result)]).inc();
    }

    pub(crate) fn seen(&self, states: impl Iterator<Item = RecordState> + Clone, alarms: usize) {
        for state in RecordState::ALL {
            let count = states.clone().filter(|it| *it == state).count();
            let gauge = self.machines.get_or_create(&vec![("state", state.label())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.alarms.set(i64::try_from(alarms).unwrap_or(i64::MAX));
    }
}
