//! What other tasks may read of the engine.

use std::collections::BTreeMap;
use std::time::Instant;

use blueprint_common_tunnel_core::{PeerStats, Stats};
use blueprint_common_types::WgPublicKey;

use crate::netstack::Refusals;
use crate::udp::CarrierErrors;

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
}

impl TunnelSnapshot {
    pub(crate) fn new(taken_at: Instant) -> Self {
        Self {
            taken_at,
            peers: BTreeMap::new(),
            discards: BTreeMap::new(),
            stats: Stats::default(),
            flows: 0,
        }
    }
}

/// All reasons for which core, netstack and carrier refuse something.
pub(crate) fn discards(
    stats: &Stats,
    refusals: Refusals,
    errors: CarrierErrors,
) -> BTreeMap<&'static str, u64> {
    let mut discards: BTreeMap<_, _> =
        stats.discards().map(|(discard, count)| (discard.label(), count)).collect();
    discards.extend([
        ("backlog_full", refusals.backlog_full),
        ("flows_full", refusals.flows_full),
        ("no_flow", refusals.no_flow),
        ("udp_send", errors.send),
        ("udp_outbox_full", errors.outbox_full),
        ("udp_receive", errors.receive),
    ]);
    discards
}
