//! Counters, and the closed list of reasons for refusing something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{EchoStats, Endpoint};

macro_rules! discards {
    ($($(#[$doc:meta])* $variant:ident => $label:literal,)*) => {
        /// Why something was refused; the label is the metric's `reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Discard {
            $($(#[$doc])* $variant,)*
        }

        impl Discard {
            /// Every reason, in the order of [`Stats::discards`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable lower-case name.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }

        /// The same counters, for packet threads.
        #[derive(Debug, Default)]
        #[expect(non_snake_case, reason = "one field per variant, named after it by the macro")]
        struct SharedCounts {
            $($variant: AtomicU64,)*
        }

        impl SharedCounts {
            const fn count(&self, discard: Discard) -> &AtomicU64 {
                match discard {
                    $(Discard::$variant => &self.$variant,)*
                }
            }
        }

        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[expect(non_snake_case, reason = "one field per variant, named after it by the macro")]
        struct Counts {
            $($variant: u64,)*
        }

        impl Counts {
            const fn count_mut(&mut self, discard: Discard) -> &mut u64 {
                match discard {
                    $(Discard::$variant => &mut self.$variant,)*
                }
            }

            const fn count(&self, discard: Discard) -> u64 {
                match discard {
                    $(Discard::$variant => self.$variant,)*
                }
            }
        }
    };
}

discards! {
    /// A datagram that is no WireGuard message.
    NotWireGuard => "not_wireguard",
    /// A handshake message whose first MAC is not for our key.
    InvalidMac => "invalid_mac",
    /// A handshake beyond the budget that did not show a cookie; it was sent one.
    CookieSent => "cookie_sent",
    /// A handshake beyond the budget that did not show a cookie, while no more cookies are sent.
    CookieBudget => "cookie_budget",
    /// A handshake with a cookie beyond the budget of all such.
    HandshakeBudget => "handshake_budget",
    /// A handshake with a cookie beyond the budget of its source.
    SourceHandshakeBudget => "source_handshake_budget",
    /// A peer's handshakes come faster than any need.
    PeerHandshakeBudget => "peer_handshake_budget",
    /// A peer's echoes, or packets that wait for a session with it, come faster than any need.
    PeerErrandBudget => "peer_errand_budget",
    /// A well-formed handshake of a key that is no peer.
    UnknownPeer => "unknown_peer",
    /// A message for an index that is none of ours.
    UnknownIndex => "unknown_index",
    /// A handshake older than one seen before: a replay, or the peer's clock went back (W11).
    StaleHandshake => "stale_handshake",
    /// A handshake response or cookie that nobody waits for.
    UnexpectedReply => "unexpected_reply",
    /// A message that fails authentication.
    Unauthentic => "unauthentic",
    /// A counter seen before or too old.
    Replay => "replay",
    /// A counter so near its end that it can only be an attack (W2).
    CounterLimit => "counter_limit",
    /// A message for a session past its life.
    ExpiredSession => "expired_session",
    /// The cipher library panicked; the peer's state was made anew (W10).
    LibraryPanic => "library_panic",
    /// A fault of our own ended the run of datagrams, or of packets of this machine, that this was in; the next begins afresh.
    OwnPanic => "own_panic",
    /// An inner packet whose version, length or checksum is wrong.
    MalformedPacket => "malformed_packet",
    /// An inner packet with IPv4 options or IPv6 extension headers.
    IpOptions => "ip_options",
    /// A fragment of an inner packet.
    Fragment => "fragment",
    /// A multicast, loopback, link-local or otherwise special inner address.
    SpecialAddress => "special_address",
    /// An inner source that is not the sender's (W1).
    SpoofedSource => "spoofed_source",
    /// A packet of the local stack whose source is not our own address.
    ForeignSource => "foreign_source",
    /// An inner destination that nobody holds.
    NoRoute => "no_route",
    /// A packet between two spokes that the policy does not allow.
    Denied => "denied",
    /// A relayed packet whose hop limit ran out.
    HopLimit => "hop_limit",
    /// A packet larger than the MTU.
    TooBig => "too_big",
    /// A packet for a peer whose endpoint is not known.
    NoEndpoint => "no_endpoint",
    /// A packet that waited for a handshake and made room for a later one, or whose handshake failed, or that was
    /// judged by a policy that has been replaced.
    PendingFull => "pending_full",
    /// Too much waits for the thread that makes handshakes.
    ControlFull => "control_full",
    /// The driver does not drain datagrams fast enough.
    TransmitFull => "transmit_full",
    /// The local stack does not take packets fast enough.
    PacketFull => "packet_full",
    /// The driver does not drain events fast enough; the oldest was dropped.
    EventFull => "event_full",
}

/// Counters of one core since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams given to the core.
    pub rx_datagrams: u64,
    /// Datagrams the core wanted sent.
    pub tx_datagrams: u64,
    /// Inner packets handed to the local stack.
    pub delivered_packets: u64,
    /// Inner packets taken from the local stack.
    pub local_packets: u64,
    /// Inner packets passed from one spoke to another.
    pub relayed_packets: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    counts: Counts,
}

impl Stats {
    /// How often something was refused for this reason.
    #[must_use]
    pub const fn discarded(&self, discard: Discard) -> u64 {
        self.counts.count(discard)
    }

    /// Every reason and its count, zeros included.
    pub fn discards(&self) -> impl Iterator<Item = (Discard, u64)> + '_ {
        Discard::ALL.iter().map(|discard| (*discard, self.counts.count(*discard)))
    }

    pub(crate) const fn discard(&mut self, discard: Discard) {
        let count = self.counts.count_mut(discard);
        *count = count.saturating_add(1);
    }

    /// Adds what packet threads counted.
    pub fn add(&mut self, tally: &Tally) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.rx_datagrams = self.rx_datagrams.saturating_add(read(&tally.rx_datagrams));
        self.tx_datagrams = self.tx_datagrams.saturating_add(read(&tally.tx_datagrams));
        self.delivered_packets = self.delivered_packets.saturating_add(read(&tally.delivered_packets));
        self.local_packets = self.local_packets.saturating_add(read(&tally.local_packets));
        self.relayed_packets = self.relayed_packets.saturating_add(read(&tally.relayed_packets));
        for discard in Discard::ALL {
            let count = self.counts.count_mut(*discard);
            *count = count.saturating_add(read(tally.counts.count(*discard)));
        }
    }
}

/// Counters of one packet thread, which others may read at any time. Never reset.
#[derive(Debug, Default)]
pub struct Tally {
    rx_datagrams: AtomicU64,
    tx_datagrams: AtomicU64,
    delivered_packets: AtomicU64,
    local_packets: AtomicU64,
    relayed_packets: AtomicU64,
    counts: SharedCounts,
}

/// What a [`Tally`] counts besides refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// [`Stats::rx_datagrams`].
    RxDatagrams,
    /// [`Stats::tx_datagrams`].
    TxDatagrams,
    /// [`Stats::delivered_packets`].
    Delivered,
    /// [`Stats::local_packets`].
    Local,
    /// [`Stats::relayed_packets`].
    Relayed,
}

impl Tally {
    /// Counts traffic.
    pub fn add(&self, traffic: Traffic, count: usize) {
        let counter = match traffic {
            Traffic::RxDatagrams => &self.rx_datagrams,
            Traffic::TxDatagrams => &self.tx_datagrams,
            Traffic::Delivered => &self.delivered_packets,
            Traffic::Local => &self.local_packets,
            Traffic::Relayed => &self.relayed_packets,
        };
        counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a refusal.
    pub fn discard(&self, discard: Discard) {
        self.counts.count(discard).fetch_add(1, Ordering::Relaxed);
    }
}

/// What is known of one peer at the last time the core was told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerStats {
    /// Its outer address, where known.
    pub endpoint: Option<Endpoint>,
    /// Largest inner packet that the way to it takes, in bytes.
    pub mtu: u16,
    /// Time since the last completed handshake.
    pub handshake_age: Option<Duration>,
    /// Outer bytes received and authenticated.
    pub rx_bytes: u64,
    /// Outer bytes sent.
    pub tx_bytes: u64,
    /// Time since the last authenticated message.
    pub last_rx: Option<Duration>,
    /// Its data plane.
    pub echo: EchoStats,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_unique_and_counts_stay_apart() {
        let labels: BTreeSet<_> = Discard::ALL.iter().map(|discard| discard.label()).collect();
        assert_eq!(labels.len(), Discard::ALL.len());
        let mut stats = Stats::default();
        stats.discard(Discard::Denied);
        stats.discard(Discard::Denied);
        assert_eq!(stats.discards().map(|(_, count)| count).sum::<u64>(), 2);
        assert_eq!(stats.discarded(Discard::Denied), 2);
    }
}
