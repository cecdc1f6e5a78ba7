//! Metrics of the control plane.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_tunnel::carrier::QuicServer;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

type Labelled = Family<Vec<(&'static str, &'static str)>, Counter<u64, AtomicU64>>;

/// Counters of the control plane, prefix `hub_control_`.
#[derive(Debug, Clone)]
pub(crate) struct ControlMetrics {
    joins: Labelled,
    handshakes: Labelled,
    refused: Labelled,
    audit_suppressed: Counter,
    artefact_bytes: Counter,
    downloads: Labelled,
    sessions: Gauge,
    rpc_connections: Gauge,
    log_readers: Gauge,
    rpc_cut: Labelled,
}

impl ControlMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self {
            joins: Labelled::default(),
            handshakes: Labelled::default(),
            refused: Labelled::default(),
            audit_suppressed: Counter::default(),
            artefact_bytes: Counter::default(),
            downloads: Labelled::default(),
            sessions: Gauge::default(),
            rpc_connections: Gauge::default(),
            log_readers: Gauge::default(),
            rpc_cut: Labelled::default(),
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
                "Audit rows of strangers and refused agents over their budget",
                this.audit_suppressed.clone(),
            );
            registry.register(
                "artefact_bytes",
                "Bytes of pushed artefacts that agents fetched",
                this.artefact_bytes.clone(),
            );
            registry.register(
                "agent_downloads",
                "Requests of new machines for the agent's program by result",
                this.downloads.clone(),
            );
            registry.register("sessions", "Open control streams", this.sessions.clone());
            registry.register(
                "rpc_connections",
                "Open connections of workloads to the operator's RPC",
                this.rpc_connections.clone(),
            );
            registry.register(
                "log_readers",
                "Operators that read what workloads write",
                this.log_readers.clone(),
            );
            registry.register(
                "rpc_connections_cut",
                "Connections of workloads to the operator's RPC that the hub cut, by reason",
                this.rpc_cut.clone(),
            );
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

    pub(crate) fn artefact_sent(&self, bytes: usize) {
        self.artefact_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn download(&self, result: &'static str) {
        self.downloads.get_or_create(&vec![("result", result)]).inc();
    }

    pub(crate) fn rpc_opened(&self) {
        self.rpc_connections.inc();
    }

    pub(crate) fn rpc_closed(&self) {
        self.rpc_connections.dec();
    }

    pub(crate) fn log_reader_came(&self) {
        self.log_readers.inc();
    }

    pub(crate) fn log_reader_left(&self) {
        self.log_readers.dec();
    }

    pub(crate) fn rpc_cut(&self, reason: &'static str) {
        self.rpc_cut.get_or_create(&vec![("reason", reason)]).inc();
    }

    pub(crate) fn session_opened(&self) {
        self.sessions.inc();
    }

    pub(crate) fn session_closed(&self) {
        self.sessions.dec();
    }
}

/// Shows what the QUIC carrier let wait, ignored or lost.
pub(crate) fn register_quic(metrics: &Metrics, server: Arc<QuicServer>) {
    metrics.with(|registry| registry.register_collector(Box::new(QuicCollector(server))));
}

#[derive(Debug)]
struct QuicCollector(Arc<QuicServer>);

impl Collector for QuicCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let server = &self.0;
        let under_way = ConstGauge::new(i64::try_from(server.under_way()).unwrap_or(i64::MAX));
        let (name, help) = ("hub_control_quic_handshakes", "QUIC handshakes of agents that are under way");
        under_way.encode(encoder.encode_descriptor(name, help, None, under_way.metric_type())?)?;
        let (name, help) =
            ("hub_control_quic_held_off", "First packets of QUIC that began no handshake, by reason");
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        let reasons = [
            // Has to come again with proof of its address.
            ("retry", server.retried()),
            // More handshakes of proved addresses than there may be.
            ("too_many", server.ignored()),
            // Another protocol or a broken packet.
            ("refused", server.refused()),
            // Came faster than they were looked at; datagrams of links are among them.
            ("queue_full", server.lost()),
        ];
        for (reason, count) in reasons {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}
