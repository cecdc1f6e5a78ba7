//! Tells the registry whose data plane echoes, and shows the tunnel in the metrics.

mod broken;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_tunnel::{Tunnel, TunnelSnapshot};
use blueprint_common_tunnel_core::PeerStats;
use blueprint_common_types::{AgentId, Carrier};
use blueprint_hub_registry::RegistrarHandle;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio_util::sync::CancellationToken;

use self::broken::Broken;

/// How often the tunnel is looked at; its own snapshot is at most this old as well.
const PACE: Duration = Duration::from_millis(250);

/// The same while the control stream of an agent has just ended: who asks where its services are is to know within two seconds.
const PACE_WHEN_BROKEN: Duration = Duration::from_millis(50);

/// Follows the echoes of every agent until `stop`, and the ends of their control streams.
///
/// It compares states and not events, so that none can be missed.
pub(crate) async fn watch(tunnel: Tunnel, registrar: RegistrarHandle, stop: CancellationToken) {
    let mut told: BTreeMap<AgentId, bool> = BTreeMap::new();
    let mut broken = Broken::default();
    let (mut compared, mut known) = (None, registrar.snapshot());
    loop {
        let pace = if broken.is_any(Instant::now()) { PACE_WHEN_BROKEN } else { PACE };
        if stop.run_until_cancelled(tokio::time::sleep(pace)).await.is_none() {
            return;
        }
        let peers = tunnel.snapshot();
        let registry = registrar.snapshot();
        // With many agents the tunnel takes a new one less often than it is looked at.
        let is_same = compared.replace(peers.taken_at) == Some(peers.taken_at);
        if is_same && Arc::ptr_eq(&known, &registry) {
            continue;
        }
        known = Arc::clone(&registry);
        told.retain(|agent, _| registry.agents.contains_key(agent));
        broken.retain(|agent| registry.agents.contains_key(agent));
        for (id, view) in &registry.agents {
            broken.note(*id, view.connected, Instant::now());
            let peer = peers.peers.get(&view.agent.wireguard_key);
            let mut is_gone = |peer: &PeerStats| broken.is_gone(*id, &peer.echo, peers.taken_at);
            let alive = peer.is_some_and(|peer| peer.echo.alive && !is_gone(peer));
            if told.get(id).copied().unwrap_or(false) == alive {
                continue;
            }
            if registrar.set_data_plane(*id, alive).await.is_err() {
                return;
            }
            told.insert(*id, alive);
        }
    }
}

/// Adds the tunnel's counters, prefix `hub_tunnel_`.
pub(crate) fn register_metrics(metrics: &Metrics, tunnel: Tunnel) {
    metrics.with(|registry| registry.register_collector(Box::new(TunnelCollector(tunnel))));
}

#[derive(Debug)]
struct TunnelCollector(Tunnel);

impl TunnelCollector {
    /// How many living peers each carrier carries.
    fn encode_carriers(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        snapshot: &TunnelSnapshot,
    ) -> Result<(), std::fmt::Error> {
        let kind = ConstGauge::new(0i64).metric_type();
        let help = "Peers whose data plane echoes, by carrier";
        let mut family = encoder.encode_descriptor("hub_tunnel_peers_by_carrier", help, None, kind)?;
        for carrier in Carrier::ALL {
            let is_it = |peer: &&PeerStats| {
                peer.echo.alive
                    && peer.endpoint.is_some_and(|endpoint| endpoint.via.label() == carrier.label())
            };
            let count = snapshot.peers.values().filter(is_it).count();
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("carrier", carrier.label())])?)?;
        }
        Ok(())
    }
}

impl Collector for TunnelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let snapshot = self.0.snapshot();
        let alive = snapshot.peers.values().filter(|peer| peer.echo.alive).count();
        let as_gauge = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        for (name, help, value) in [
            ("hub_tunnel_peers", "Peers", snapshot.peers.len()),
            ("hub_tunnel_peers_alive", "Peers whose data plane echoes", alive),
            ("hub_tunnel_flows", "Open TCP flows into the overlay", snapshot.flows),
        ] {
            let gauge = as_gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        self.encode_carriers(&mut encoder, &snapshot)?;
        for (name, help, value) in [
            ("hub_tunnel_rx_datagrams", "Datagrams received", snapshot.stats.rx_datagrams),
            ("hub_tunnel_tx_datagrams", "Datagrams sent", snapshot.stats.tx_datagrams),
            ("hub_tunnel_handshakes", "Completed handshakes", snapshot.stats.handshakes),
            (
                "hub_tunnel_relayed_packets",
                "Packets passed from spoke to spoke",
                snapshot.stats.relayed_packets,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let sample = ConstCounter::new(0u64);
        let kind = sample.metric_type();
        let mut dropped = encoder.encode_descriptor(
            "hub_tunnel_datagrams_dropped",
            "Datagrams and packets refused by reason",
            None,
            kind,
        )?;
        for (reason, count) in &snapshot.discards {
            ConstCounter::new(*count).encode(dropped.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
    }
}
