//! What other tasks may read of the engine.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use blueprint_common_tunnel_core::{PeerStats, Stats};
use blueprint_common_types::WgPublicKey;

use crate::engine::WireErrors;
use crate::netstack::Refusals;

/// State of a tunnel at one moment.
#[derive(Debug, Clone)]
pub struct TunnelSnapshot {
    /// When it was taken; ages in `peers` count from here.
    pub taken_at: Instant,
    /// Every peer.
    pub peers: BTreeMap<WgPublicKey, PeerStats>,
    /// Everything refused or dropped since the start, by reason; the reasons are a closed list.
    pub discards: BTreeMap<&'static str, u64>,
    /// The core's counters.
    pub stats: Stats,
    /// TCP connections that are open or not yet closed at both ends.
    pub flows: usize,
    /// Connections of other carriers than plain UDP.
    pub links: usize,
}

impl TunnelSnapshot {
    pub(crate) fn new(taken_at: Instant) -> Self {
        Self {
            taken_at,
            peers: BTreeMap::new(),
            discards: BTreeMap::new(),
            stats: Stats::default(),
            flows: 0,
            links: 0,
        }
    }
}

/// All reasons for which core, netstack and carrier refuse something.
pub(crate) fn discards(
    stats: &Stats,
    refusals: Refusals,
    errors: &WireErrors,
) -> BTreeMap<&'static str, u64> {
    let mut discards: BTreeMap<_, _> =
        stats.discards().map(|(discard, count)| (discard.label(), count)).collect();
    discards.extend([
        ("backlog_full", refusals.backlog_full),
        ("flows_full", refusals.flows_full),
        ("no_flow", refusals.no_flow),
        ("netstack_unreadable", refusals.unreadable),
        ("netstack_checksum", refusals.bad_checksum),
        ("netstack_no_room", refusals.no_room),
        ("netstack_growth", refusals.growth),
        ("udp_no_port", refusals.no_udp_port),
        ("udp_queue_full", refusals.udp_queue_full),
        ("icmp_limited", refusals.icmp_limited),
        ("udp_send", errors.udp_send.load(Ordering::Relaxed)),
        ("udp_receive", errors.udp_receive.load(Ordering::Relaxed)),
        ("link_send", errors.link_send.load(Ordering::Relaxed)),
    ]);
    discards
}
