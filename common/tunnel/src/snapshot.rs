//! What other tasks may read of the engine.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use blueprint_common_tunnel_core::{PeerStats, Stats};
use blueprint_common_types::WgPublicKey;

use crate::engine::Wire;
use crate::netstack::Refusals;

/// State of a tunnel at one moment.
#[derive(Debug, Clone)]
pub struct TunnelSnapshot {
    /// When it was taken; ages in `peers` count from here.
    pub taken_at: Instant,
    /// Every peer.
    pub peers: PeerTable,
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
            peers: PeerTable::default(),
            discards: BTreeMap::new(),
            stats: Stats::default(),
            flows: 0,
            links: 0,
        }
    }
}

/// What is known of every peer, in the order of their keys: of ten thousand, one is made every four seconds.
#[derive(Debug, Clone, Default)]
pub struct PeerTable(Vec<(WgPublicKey, PeerStats)>);

impl PeerTable {
    /// One of `peers`, which come in the order of their keys.
    pub(crate) fn new(peers: impl Iterator<Item = (WgPublicKey, PeerStats)>) -> Self {
        let mut table = Vec::with_capacity(peers.size_hint().1.unwrap_or_default());
        table.extend(peers);
        debug_assert!(table.is_sorted_by_key(|(key, _)| *key), "peers are looked up by their order");
        Self(table)
    }

    /// What is known of one.
    #[must_use]
    pub fn get(&self, key: &WgPublicKey) -> Option<&PeerStats> {
        let at = self.0.binary_search_by_key(key, |(key, _)| *key).ok()?;
        self.0.get(at).map(|(_, stats)| stats)
    }

    /// Each peer's key, and what is known of it.
    pub fn iter(&self) -> impl Iterator<Item = (&WgPublicKey, &PeerStats)> {
        self.0.iter().map(|(key, stats)| (key, stats))
    }

    /// What is known of each.
    pub fn values(&self) -> impl Iterator<Item = &PeerStats> {
        self.iter().map(|(_, stats)| stats)
    }

    /// Number of peers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All reasons for which core, netstack and carrier refuse something.
pub(crate) fn discards(stats: &Stats, refusals: Refusals, wire: &Wire) -> BTreeMap<&'static str, u64> {
    let errors = wire.errors();
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
        ("udp_queue", wire.overflown()),
        ("udp_receive", errors.udp_receive.load(Ordering::Relaxed)),
        ("link_send", errors.link_send.load(Ordering::Relaxed)),
    ]);
    discards
}

#[cfg(test)]
mod tests {
    use blueprint_common_tunnel_core::EchoStats;

    use super::*;

    fn peer(key: u8, mtu: u16) -> (WgPublicKey, PeerStats) {
        let stats = PeerStats {
            endpoint: None,
            mtu,
            handshake_age: None,
            rx_bytes: 0,
            tx_bytes: 0,
            last_rx: None,
            echo: EchoStats::default(),
        };
        (WgPublicKey::from_bytes([key; 32]), stats)
    }

    #[test]
    fn a_table_finds_the_peers_that_it_was_given_and_no_other() {
        let table = PeerTable::new([peer(1, 1280), peer(2, 1281), peer(9, 1282)].into_iter());
        let mtu = |key| table.get(&WgPublicKey::from_bytes([key; 32])).map(|peer| peer.mtu);
        assert_eq!([0, 1, 2, 3, 9].map(mtu), [None, Some(1280), Some(1281), None, Some(1282)]);
        assert_eq!((table.len(), table.values().map(|peer| peer.mtu).max()), (3, Some(1282)));
        assert!(PeerTable::default().is_empty() && PeerTable::default().get(&peer(1, 0).0).is_none());
    }
}
