//! The core: every peer of one end, where a datagram or packet goes, and when something is due.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::WgPublicKey;
use ipnetwork::IpNetwork;

use crate::admission::{Admission, Verdict};
use crate::echo::Beat;
use crate::filter::{self, Route};
use crate::message::{Message, slot};
use crate::noise::{Identity, REJECT_COUNTER};
use crate::output::Output;
use crate::packet::Header;
use crate::peer::{Peer, Shared};
use crate::rng::Rng;
use crate::table::Table;
use crate::{
    Config, Discard, Event, MAX_PEERS, MAX_PREFIXES_PER_PEER, MTU_RANGE, PeerConfig, PeerError, PeerStats,
    Policy, Role, Stats, Transmit,
};

/// One end of the tunnel: told what happened and when, says what it wants done.
///
/// After every `handle_*` and every other change its driver drains [`Self::poll_transmit`],
/// [`Self::poll_packet`] and [`Self::poll_event`]. Times never go back; one that does counts as the latest seen.
pub struct TunnelCore {
    shared: Shared,
    admission: Admission,
    policy: Policy,
    table: Table,
    /// By slot, the random upper 24 bits of the indexes the peer uses towards us (W8).
    peers: BTreeMap<u32, Peer>,
    slots: BTreeMap<WgPublicKey, u32>,
    timers: BTreeSet<(Instant, u32)>,
}

/// Peers.
impl TunnelCore {
    /// Makes a core without peers that lets no spoke reach another.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let identity = Identity::new(&config.private_key);
        let mut rng = Rng::new(config.seed);
        let admission = Admission::new(identity.public(), config.role, rng.bytes());
        let shared = Shared {
            now,
            role: config.role,
            mtu: usize::from(config.mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end())),
            own: config.addresses,
            hub: config.prefixes.hub(),
            identity,
            rng,
            output: Output::default(),
        };
        Self {
            shared,
            admission,
            policy: Policy::deny_all(),
            table: Table::default(),
            peers: BTreeMap::new(),
            slots: BTreeMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Adds a peer, or changes the one with this key, whose sessions go on. A spoke dials at once.
    ///
    /// # Errors
    ///
    /// Refuses, and changes nothing, where the key is our own or weak, a prefix belongs to another peer,
    /// or a limit is reached.
    pub fn upsert_peer(&mut self, config: PeerConfig, now: Instant) -> Result<(), PeerError> {
        self.advance(now);
        let key = config.public_key;
        let allowed = self.check_peer(&config)?;
        let slot = match self.slots.get(&key) {
            Some(slot) => *slot,
            None => self.add_peer(key),
        };
        let Some(peer) = self.peers.get_mut(&slot) else { return Ok(()) };
        for prefix in std::mem::replace(&mut peer.allowed, allowed.clone()) {
            self.table.remove(prefix);
        }
        for prefix in allowed {
            self.table.insert(prefix, slot);
        }
        peer.keepalive = config.keepalive;
        if let Some(endpoint) = config.endpoint {
            let is_new = peer.endpoint() != Some(endpoint);
            peer.set_endpoint(endpoint);
            if is_new && self.shared.role == Role::Spoke {
                peer.start_handshake(&mut self.shared);
            }
        }
        self.schedule(slot);
        Ok(())
    }

    /// Removes a peer with its keys and sessions; false where there is none.
    pub fn remove_peer(&mut self, key: &WgPublicKey) -> bool {
        let Some(slot) = self.slots.remove(key) else { return false };
        if let Some(peer) = self.peers.remove(&slot) {
            for prefix in peer.allowed {
                self.table.remove(prefix);
            }
            if let Some(at) = peer.scheduled {
                self.timers.remove(&(at, slot));
            }
        }
        true
    }

    /// Every peer's key, in order.
    pub fn peers(&self) -> impl Iterator<Item = WgPublicKey> + '_ {
        self.slots.keys().copied()
    }

    /// Starts a handshake with a peer at once, whatever its state; false where there is no such peer.
    pub fn start_handshake(&mut self, key: &WgPublicKey, now: Instant) -> bool {
        self.advance(now);
        self.with_peer(key, Peer::start_handshake)
    }

    /// Moves a peer to another outer address; a spoke dials it at once. False where there is no such peer.
    pub fn set_endpoint(&mut self, key: &WgPublicKey, endpoint: SocketAddr, now: Instant) -> bool {
        self.advance(now);
        self.with_peer(key, |peer, shared| {
            peer.set_endpoint(endpoint);
            if shared.role == Role::Spoke {
                peer.start_handshake(shared);
            }
        })
    }

    /// Forgets how new a peer's last handshake was, and its sessions; false where there is no such peer (W11).
    ///
    /// A peer whose clock went back can make no handshake until the old time is reached again. Only a channel
    /// that proves who the peer is by other means may cause this, for it makes old initiations good again.
    pub fn reset_replay_floor(&mut self, key: &WgPublicKey, now: Instant) -> bool {
        self.advance(now);
        self.with_peer(key, |peer, shared| peer.reset(shared))
    }

    /// Replaces the policy between spokes.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What is known of a peer at the last time told.
    #[must_use]
    pub fn peer_stats(&self, key: &WgPublicKey) -> Option<PeerStats> {
        let peer = self.peers.get(self.slots.get(key)?)?;
        Some(peer.stats(self.shared.now))
    }

    /// Counters since the core was made.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.shared.output.stats
    }

    fn check_peer(&self, config: &PeerConfig) -> Result<Vec<IpNetwork>, PeerError> {
        let key = config.public_key;
        if key.as_bytes() == self.shared.identity.public().as_bytes() {
            return Err(PeerError::OwnKey(key));
        }
        if config.allowed_ips.len() > MAX_PREFIXES_PER_PEER {
            return Err(PeerError::TooManyPrefixes(key));
        }
        let own_slot = self.slots.get(&key);
        if own_slot.is_none() && self.slots.len() >= MAX_PEERS {
            return Err(PeerError::Full);
        }
        if own_slot.is_none() && !self.shared.identity.accepts(&key) {
            return Err(PeerError::WeakKey(key));
        }
        for prefix in &config.allowed_ips {
            let holder = self.table.holder(*prefix).filter(|holder| Some(holder) != own_slot);
            if let Some(holder) = holder.and_then(|holder| self.peers.get(&holder)) {
                return Err(PeerError::PrefixTaken { prefix: *prefix, holder: holder.key });
            }
        }
        Ok(config.allowed_ips.clone())
    }

    /// Gives a new peer a slot that nobody can guess; at most one in 256 is taken, so few draws are needed.
    fn add_peer(&mut self, key: WgPublicKey) -> u32 {
        let slot = loop {
            let slot = self.shared.rng.u32() >> 8;
            if !self.peers.contains_key(&slot) {
                break slot;
            }
        };
        let peer = Peer::new(key, slot, &mut self.shared);
        self.peers.insert(slot, peer);
        self.slots.insert(key, slot);
        slot
    }

    fn with_peer(&mut self, key: &WgPublicKey, act: impl FnOnce(&mut Peer, &mut Shared)) -> bool {
        let Some(slot) = self.slots.get(key).copied() else { return false };
        self.with_slot(slot, act);
        true
    }

    fn with_slot<T>(&mut self, slot: u32, act: impl FnOnce(&mut Peer, &mut Shared) -> T) -> Option<T> {
        let result = self.peers.get_mut(&slot).map(|peer| act(peer, &mut self.shared));
        self.schedule(slot);
        result
    }
}

/// Inputs.
impl TunnelCore {
    /// Takes a datagram that arrived from `from`.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.advance(now);
        let stats = &mut self.shared.output.stats;
        stats.rx_datagrams = stats.rx_datagrams.saturating_add(1);
        match Message::parse(datagram) {
            Some(Message::Data { counter: REJECT_COUNTER.., .. }) => self.discard(Discard::CounterLimit),
            Some(Message::Data { receiver, .. }) => self.handle_data(from, datagram, receiver),
            Some(Message::Initiation { .. }) => self.handle_initiation(from, datagram),
            Some(Message::Response { receiver, .. }) => self.handle_response(from, datagram, receiver),
            Some(Message::Cookie { receiver }) => {
                let known =
                    self.with_slot(slot(receiver), |peer, shared| peer.handle_cookie(from, datagram, shared));
                if known.is_none() {
                    self.discard(Discard::UnknownIndex);
                }
            }
            None => self.discard(Discard::NotWireGuard),
        }
    }

    /// Takes an IP packet from the local stack.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.advance(now);
        let stats = &mut self.shared.output.stats;
        stats.local_packets = stats.local_packets.saturating_add(1);
        let route = Header::parse(packet)
            .and_then(|header| filter::from_local(&header, &self.table, &self.shared.own));
        match route {
            Ok(slot) => {
                self.with_slot(slot, |peer, shared| peer.send(packet, shared));
            }
            Err(discard) => self.discard(discard),
        }
    }

    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some((at, slot)) = self.timers.first().copied()
            && at <= self.shared.now
        {
            self.timers.remove(&(at, slot));
            if let Some(peer) = self.peers.get_mut(&slot) {
                peer.scheduled = None;
                peer.handle_timeout(&mut self.shared);
            }
            self.schedule(slot);
        }
    }

    fn handle_initiation(&mut self, from: SocketAddr, datagram: &[u8]) {
        if !self.admit(from, datagram) {
            return;
        }
        let known = self.shared.identity.initiator(datagram).and_then(|key| self.slots.get(&key).copied());
        let handled = known.and_then(|slot| {
            self.with_slot(slot, |peer, shared| peer.handle_initiation(from, datagram, shared))
        });
        if handled.is_none() {
            self.discard(Discard::UnknownPeer);
        }
    }

    fn handle_response(&mut self, from: SocketAddr, datagram: &[u8], receiver: u32) {
        let slot = slot(receiver);
        if !self.peers.contains_key(&slot) {
            self.discard(Discard::UnknownIndex);
        } else if self.admit(from, datagram) {
            self.with_slot(slot, |peer, shared| peer.handle_response(from, datagram, receiver, shared));
        }
    }

    fn admit(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        match self.admission.judge(from.ip(), datagram, self.shared.now) {
            Verdict::Admit => true,
            Verdict::Cookie(reply) => {
                self.discard(Discard::CookieSent);
                self.shared.output.transmit(from, reply);
                false
            }
            Verdict::Refuse(discard) => {
                self.discard(discard);
                false
            }
        }
    }

    fn handle_data(&mut self, from: SocketAddr, datagram: &[u8], receiver: u32) {
        let sender = slot(receiver);
        let opened = self.with_slot(sender, |peer, shared| peer.open(from, datagram, receiver, shared));
        match opened {
            None => self.discard(Discard::UnknownIndex),
            Some(None) => {}
            Some(Some(packet)) => match self.forward(sender, packet) {
                Ok(()) => {}
                Err(discard) => self.discard(discard),
            },
        }
    }

    /// Routes a packet that came out of a session.
    fn forward(&mut self, sender: u32, mut packet: Vec<u8>) -> Result<(), Discard> {
        let header = Header::parse(&packet)?;
        match filter::from_peer(&header, sender, &self.table, &self.shared.own, self.shared.role)? {
            Route::Local => {
                if !self.handle_echo(sender, &header, &mut packet) {
                    self.shared.output.deliver(packet);
                    return Ok(());
                }
            }
            Route::Relay(receiver) => {
                let key = |slot| self.peers.get(slot).map(|peer| peer.key);
                let (Some(source), Some(destination)) = (key(&sender), key(&receiver)) else {
                    return Err(Discard::NoRoute);
                };
                if !self.policy.allows(&source, &destination) {
                    return Err(Discard::Denied);
                }
                header.pass_hop(&mut packet)?;
                self.with_slot(receiver, |peer, shared| peer.send(&packet, shared));
                let stats = &mut self.shared.output.stats;
                stats.relayed_packets = stats.relayed_packets.saturating_add(1);
            }
        }
        self.shared.output.recycle(packet);
        Ok(())
    }

    /// Answers echo requests to our own addresses, and takes the answers to our own; false for all else.
    fn handle_echo(&mut self, sender: u32, header: &Header, packet: &mut [u8]) -> bool {
        let Some(echo) = header.echo(packet) else { return false };
        if !echo.is_request {
            let (id, payload) = (echo.id, echo.payload);
            let taken = self.with_slot(sender, |peer, shared| {
                header.source == shared.hub.v4 && peer.handle_echo_reply(id, payload, shared)
            });
            return taken == Some(true);
        }
        let beat = Beat::parse(echo.payload);
        if header.answer_echo(packet).is_none() {
            return false;
        }
        self.with_slot(sender, |peer, shared| {
            if let Some(beat) = beat {
                peer.handle_beat(beat, shared);
            }
            peer.send(packet, shared);
        });
        true
    }
}

/// Outputs.
impl TunnelCore {
    /// The next datagram to send; give its payload back by [`Self::recycle`] to spare an allocation.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.output.poll_transmit()
    }

    /// The next packet for the local stack; may be given back by [`Self::recycle`], too.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.shared.output.poll_packet()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.output.poll_event()
    }

    /// When to call [`Self::handle_timeout`] next; `None` without peers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes back a buffer that the driver is done with.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.shared.output.recycle(buffer);
    }

    fn advance(&mut self, now: Instant) {
        self.shared.now = self.shared.now.max(now);
    }

    fn discard(&mut self, discard: Discard) {
        self.shared.output.discard(discard);
    }

    /// Lists a peer for its next deadline, unless it is already listed for an earlier time.
    fn schedule(&mut self, slot: u32) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        let soonest = self.shared.now + Duration::from_millis(1);
        let wanted = peer.deadline(self.shared.now).max(soonest);
        match peer.scheduled {
            Some(at) if at <= wanted => return,
            Some(at) => {
                self.timers.remove(&(at, slot));
            }
            None => {}
        }
        peer.scheduled = Some(wanted);
        self.timers.insert((wanted, slot));
    }
}

impl fmt::Debug for TunnelCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelCore")
            .field("role", &self.shared.role)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}
