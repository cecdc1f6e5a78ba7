//! What packet threads need to know, as one value that never changes: a new one takes its place.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use blueprint_common_types::{OverlayLease, WgPublicKey};

use crate::admission::MacGate;
use crate::filter::{self, Holder, Route};
use crate::line::Conduit;
use crate::packet::{Echo, Header, is_own_echo};
use crate::policy::{Protocol, Rule};
use crate::shards::Shards;
use crate::table::Table;
use crate::tracker::{Flow, Tracker};
use crate::{Discard, Policy, Role};

/// Peers, prefixes and policy at one moment.
#[derive(Debug, Clone)]
pub struct Tables {
    pub(crate) role: Role,
    pub(crate) own: OverlayLease,
    pub(crate) mtu: usize,
    pub(crate) answers_echoes: bool,
    pub(crate) conduits: Shards<u32, Arc<Conduit>>,
    pub(crate) prefixes: Table<Arc<Conduit>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) own_rules: Option<Arc<[Rule]>>,
    pub(crate) tracker: Arc<Tracker>,
    /// What this end began itself, apart from what peers may fill.
    pub(crate) own_tracker: Arc<Tracker>,
    pub(crate) macs: MacGate,
}

impl Holder for Arc<Conduit> {
    fn slot(&self) -> u32 {
        self.slot
    }
}

/// Where an accepted packet goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'a> {
    /// To our own addresses.
    Local,
    /// To another peer.
    Relay(&'a Arc<Conduit>),
}

impl Tables {
    /// Largest inner packet in bytes.
    #[must_use]
    pub const fn mtu(&self) -> usize {
        self.mtu
    }

    /// True where the policy lets one peer begin TCP with another, at this port.
    #[must_use]
    pub fn may_connect(&self, source: &WgPublicKey, destination: &WgPublicKey, port: u16) -> bool {
        self.policy.allows(source, destination, Protocol::Tcp, port)
    }

    /// True where the policy lets one peer begin anything with another.
    #[must_use]
    pub fn may_reach(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool {
        self.policy.reaches(source, destination)
    }

    /// Our overlay addresses.
    #[must_use]
    pub const fn own(&self) -> &OverlayLease {
        &self.own
    }

    /// The peer that a packet of the local stack goes to. Remembered where its answer has to be told from what peers
    /// begin.
    ///
    /// # Errors
    ///
    /// Refuses what [`filter::from_local`] refuses.
    pub(crate) fn way_of_local(
        &self,
        header: &Header,
        packet: &[u8],
        now: Instant,
    ) -> Result<&Arc<Conduit>, Discard> {
        let receiver = filter::from_local(header, &self.prefixes, &self.own)?;
        // TCP shows it by its flags, and ICMP passes anyway.
        if self.own_rules.is_some()
            && !matches!(Protocol::of_number(header.protocol), Protocol::Tcp | Protocol::Icmp)
        {
            self.own_tracker.note(&flow(header, packet), now);
        }
        Ok(receiver)
    }

    /// Where a packet goes that peer `sender` sent.
    ///
    /// # Errors
    ///
    /// Refuses what the filter or the policy refuses.
    pub(crate) fn way_of(
        &self,
        header: &Header,
        packet: &[u8],
        sender: &Conduit,
        now: Instant,
    ) -> Result<Way<'_>, Discard> {
        match filter::from_peer(header, sender.slot, &self.prefixes, &self.own, self.role)? {
            Route::Local if self.admits(header, packet, now) => Ok(Way::Local),
            Route::Local => Err(Discard::Denied),
            Route::Relay(receiver) => {
                if self.permits(header, packet, sender, receiver, now) {
                    Ok(Way::Relay(receiver))
                } else {
                    Err(Discard::Denied)
                }
            }
        }
    }

    /// True for what peers may begin with this end itself, for ICMP, and for answers to what this end began.
    fn admits(&self, header: &Header, packet: &[u8], now: Instant) -> bool {
        let Some(rules) = &self.own_rules else { return true };
        let protocol = Protocol::of_number(header.protocol);
        let (_, port) = header.ports(packet);
        protocol == Protocol::Icmp
            || rules.iter().any(|rule| rule.allows(protocol, port))
            || if protocol == Protocol::Tcp {
                header.is_tcp_answer(packet)
            } else {
                self.own_tracker.is_answer(&flow(header, packet), now)
            }
    }

    /// True where the policy lets `sender` begin this, or where it answers what `receiver` was let begin.
    fn permits(
        &self,
        header: &Header,
        packet: &[u8],
        sender: &Conduit,
        receiver: &Conduit,
        now: Instant,
    ) -> bool {
        let protocol = Protocol::of_number(header.protocol);
        let ports = header.ports(packet);
        let is_tcp = protocol == Protocol::Tcp;
        if self.policy.allows(&sender.key, &receiver.key, protocol, ports.1) {
            if !is_tcp {
                self.tracker.note(&flow(header, packet), now);
            }
            return true;
        }
        let may_begin = |protocol, port| self.policy.allows(&receiver.key, &sender.key, protocol, port);
        if let Some((protocol, port)) = header.complaint(packet) {
            return may_begin(Protocol::of_number(protocol), port);
        }
        may_begin(protocol, ports.0)
            && if is_tcp {
                header.is_tcp_answer(packet)
            } else {
                self.tracker.is_answer(&flow(header, packet), now)
            }
    }

    /// True for an echo that the tunnel answers itself: its own always, everybody's where nobody else would.
    pub(crate) fn takes(&self, echo: &Echo<'_>) -> bool {
        is_own_echo(echo.payload) || self.answers_echoes && echo.is_request
    }

    /// Number of peers.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.conduits.len()
    }

    /// The peer that holds the longest prefix of an overlay address.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<WgPublicKey> {
        self.prefixes.lookup(address).map(|conduit| conduit.key)
    }

    /// True where a peer holds a prefix of an overlay address.
    #[must_use]
    pub fn is_routed(&self, address: IpAddr) -> bool {
        self.prefixes.lookup(address).is_some()
    }
}

/// The flow that a packet is of.
fn flow(header: &Header, packet: &[u8]) -> Flow {
    let (source, destination) = header.ports(packet);
    Flow::of(header.protocol, (header.source, source), (header.destination, destination))
}
