//! What answers look like.

use std::time::{Duration, SystemTime};

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{Health, Timestamp};
use blueprint_hub_registry_core::{AgentView, RegistrySnapshot, TargetRecord};
use serde::Serialize;

use crate::PeerView;

pub(crate) fn time(at: Timestamp) -> String {
    at.to_string()
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// State of a node in one word, worst cause first.
fn state(view: &AgentView) -> &'static str {
    match (view.data_plane, view.connected) {
        (true, true) => "up",
        (true, false) => "no-control",
        (false, true) => "no-tunnel",
        (false, false) => "down",
    }
}

/// A node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    id: String,
    name: String,
    /// `up`, `no-tunnel` (control stream only), `no-control` (data plane only) or `down`.
    state: &'static str,
    address_v4: String,
    address_v6: String,
    wireguard_key: String,
    joined_at: String,
    last_seen: Option<String>,
    agent_version: String,
    certificate_generation: u32,
    services: String,
    targets: usize,
    tunnel: Option<TunnelView>,
    /// What the machine has for workloads; `None` where its agent runs none or does not say.
    inventory: Option<Inventory>,
}

#[derive(Debug, Serialize)]
struct TunnelView {
    endpoint: Option<String>,
    /// `udp`, `quic` or `tls`.
    carrier: Option<&'static str>,
    mtu: u16,
    handshake_age_secs: Option<u64>,
    last_received_secs: Option<u64>,
    rx_bytes: u64,
    tx_bytes: u64,
    alive: bool,
}

impl From<PeerView> for TunnelView {
    fn from(peer: PeerView) -> Self {
        Self {
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            carrier: peer.carrier,
            mtu: peer.mtu,
            handshake_age_secs: peer.handshake_age.map(|age| Duration::as_secs(&age)),
            last_received_secs: peer.last_rx.map(|age| Duration::as_secs(&age)),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            alive: peer.alive,
        }
    }
}

impl NodeView {
    pub(crate) fn new(view: &AgentView, snapshot: &RegistrySnapshot, peer: Option<PeerView>) -> Self {
        let agent = &view.agent;
        Self {
            id: agent.id.to_string(),
            name: agent.name.clone(),
            state: state(view),
            address_v4: agent.lease.v4.to_string(),
            address_v6: agent.lease.v6.to_string(),
            wireguard_key: agent.wireguard_key.to_string(),
            joined_at: time(agent.joined_at),
            last_seen: view.last_seen.map(time),
            agent_version: agent.agent_version.clone(),
            certificate_generation: agent.generation,
            services: agent.services.to_string(),
            targets: snapshot.targets.keys().filter(|key| key.agent == agent.id).count(),
            tunnel: peer.map(TunnelView::from),
            inventory: view.inventory.as_deref().cloned(),
        }
    }
}

/// A target of a service.
#[derive(Debug, Serialize)]
pub(crate) struct TargetView {
    service: String,
    node: String,
    node_name: String,
    address: String,
    health: Health,
    reason: String,
    expires_at: String,
}

impl From<&TargetRecord> for TargetView {
    fn from(record: &TargetRecord) -> Self {
        Self {
            service: record.key.service.to_string(),
            node: record.key.agent.to_string(),
            node_name: record.agent_name.clone(),
            address: record.address.to_string(),
            health: record.health,
            reason: record.reason.clone(),
            expires_at: time(record.expires_at),
        }
    }
}
