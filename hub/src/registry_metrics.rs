//! Shows nodes and targets in the metrics, prefix `hub_registry_`; labels are closed lists, never names.

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::Health;
use blueprint_hub_registry::RegistrarHandle;
use blueprint_hub_registry_core::AgentView;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Adds the gauges.
pub(crate) fn register(metrics: &Metrics, registrar: RegistrarHandle) {
    metrics.with(|registry| registry.register_collector(Box::new(RegistryCollector(registrar))));
}

#[derive(Debug)]
struct RegistryCollector(RegistrarHandle);

impl Collector for RegistryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let snapshot = self.0.snapshot();
        let gauge = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        let mut nodes = encoder.encode_descriptor(
            "hub_registry_nodes",
            "Joined machines by state",
            None,
            MetricType::Gauge,
        )?;
        let states: [(&str, bool, bool); 4] = [
            ("up", true, true),
            ("no-tunnel", true, false),
            ("no-control", false, true),
            ("down", false, false),
        ];
        for (state, connected, data_plane) in states {
            let fits = |view: &&AgentView| view.connected == connected && view.data_plane == data_plane;
            let count = snapshot.agents.values().filter(fits).count();
            gauge(count).encode(nodes.encode_family(&[("state", state)])?)?;
        }
        let mut targets = encoder.encode_descriptor(
            "hub_registry_targets",
            "Targets by health",
            None,
            MetricType::Gauge,
        )?;
        for health in [Health::Unknown, Health::Healthy, Health::Unhealthy] {
            let count = snapshot.targets.values().filter(|target| target.health == health).count();
            gauge(count).encode(targets.encode_family(&[("health", health.to_string())])?)?;
        }
        let services = gauge(snapshot.by_service.len());
        services.encode(encoder.encode_descriptor(
            "hub_registry_services",
            "Services offered",
            None,
            MetricType::Gauge,
        )?)
    }
}
