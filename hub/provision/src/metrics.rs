//! Metrics of the provisioner, prefix `hub_provision_`; labels are closed lists and names of configured providers.

use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::ServiceKey;
use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::lifecycle::RecordState;
use blueprint_hub_provision_core::scaling::{Scaling, Sight};
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

/// What is counted of price lists; providers are those that the hub can ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct PriceMetrics {
    asked: Family<Vec<(&'static str, String)>, Counter<u64, AtomicU64>>,
    renewed_at: Family<Vec<(&'static str, String)>, Gauge>,
}

impl PriceMetrics {
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_provision");
            let help = "Questions to providers for their price lists, by result";
            registry.register("price_lists_asked", help, self.asked.clone());
            let help = "When the price list of a provider was renewed last, in seconds since 1970";
            registry.register("price_list_renewed_timestamp_seconds", help, self.renewed_at.clone());
        });
    }

    pub(crate) fn asked(&self, provider: &str, result: &str) {
        let labels = vec![("provider", provider.to_owned()), ("result", result.to_owned())];
        self.asked.get_or_create(&labels).inc();
    }

    pub(crate) fn renewed_at(&self, provider: &str, at: Timestamp) {
        let labels = vec![("provider", provider.to_owned())];
        self.renewed_at.get_or_create(&labels).set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
    }
}

/// What is counted of alerts, and of what machines send.
#[derive(Debug, Clone, Default)]
pub(crate) struct CostMetrics {
    alerts: Gauge,
    in_force: Gauge,
    fired: Family<Labels, Counter<u64, AtomicU64>>,
    deliveries: Family<Labels, Counter<u64, AtomicU64>>,
    waiting: Gauge,
    egress: Counter<u64, AtomicU64>,
}

impl CostMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_provision");
            registry.register("cost_alerts", "Alerts about costs", this.alerts.clone());
            let help = "Alerts about costs whose action is in force";
            registry.register("cost_alerts_in_force", help, this.in_force.clone());
            registry.register("cost_alerts_fired", "What alerts about costs told", this.fired.clone());
            let help = "Tries to deliver messages of alerts, by what came of it";
            registry.register("cost_alert_deliveries", help, this.deliveries.clone());
            let help = "Messages of alerts that wait to be delivered";
            registry.register("cost_alert_messages_waiting", help, this.waiting.clone());
            let help = "Bytes that ordered machines sent through their tunnels";
            registry.register("egress_bytes", help, this.egress.clone());
        });
        this
    }

    pub(crate) fn looked(&self, alerts: usize, in_force: i64) {
        self.alerts.set(i64::try_from(alerts).unwrap_or(i64::MAX));
        self.in_force.set(in_force);
    }

    pub(crate) fn fired(&self, kind: &'static str) {
        self.fired.get_or_create(&vec![("kind", kind)]).inc();
    }

    pub(crate) fn delivered(&self, result: &'static str) {
        self.deliveries.get_or_create(&vec![("result", result)]).inc();
    }

    pub(crate) fn waiting(&self, count: u32) {
        self.waiting.set(count.into());
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.egress.inc_by(bytes);
    }
}

/// What is counted of scaling. A service is a label only while it has a tier, which the operator gave it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScaleMetrics {
    steps: Family<Labels, Counter<u64, AtomicU64>>,
    replicas: Family<Vec<(&'static str, String)>, Gauge>,
}

impl ScaleMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_scaling");
            registry.register("steps", "What was done about replicas of services", this.steps.clone());
            let help = "Replicas of services that have a tier: wanted, ready, leaving";
            registry.register("replicas", help, this.replicas.clone());
        });
        this
    }

    pub(crate) fn acted(&self, step: &'static str) {
        self.steps.get_or_create(&vec![("step", step)]).inc();
    }

    pub(crate) fn seen(&self, scaling: &Scaling, sight: &Sight) {
        let ready = sight.replicas.iter().filter(|replica| replica.is_ready).count();
        let leaving = sight.replicas.iter().filter(|replica| replica.leaving_since.is_some()).count();
        let wanted = i64::from(sight.wanted);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, value) in [("wanted", wanted), ("ready", count(ready)), ("leaving", count(leaving))] {
            self.replicas.get_or_create(&labels(scaling.service, state)).set(value);
        }
    }

    pub(crate) fn forget(&self, service: ServiceKey) {
        for state in ["wanted", "ready", "leaving"] {
            self.replicas.remove(&labels(service, state));
        }
    }
}

fn labels(service: ServiceKey, state: &str) -> Vec<(&'static str, String)> {
    vec![("service", service.to_string()), ("state", state.to_owned())]
}
