//! The core: every peer of one end, where a datagram or packet goes, and when something is due.

mod echo;
#[cfg(test)]
mod panic_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_types::WgPublicKey;
use ipnetwork::IpNetwork;

use crate::admission::{Admission, MacGate, Verdict};
use crate::inbound::Notice;
use crate::message::{Message, slot};
use crate::noise::Identity;
use crate::output::Output;
use crate::packet::Header;
use crate::peer::{Care, Peer, Shared};
use crate::rng::Rng;
use crate::shards::{ByNumber, Shards};
use crate::table::Table;
use crate::tables::Tables;
use crate::tracker::Tracker;
use crate::{
    Config, Discard, Endpoint, Event, MAX_PEERS, MAX_PREFIXES_PER_PEER, MTU_RANGE, PeerConfig, PeerError,
    PeerStats, Policy, Role, Stats, Transmit,
};

/// A hub's deadlines that are this far away or further may be late by [`COARSE_STEP`](crate::peer::COARSE_STEP).
const COARSE_AFTER: Duration = Duration::from_secs(1);

/// One end of the tunnel: told what happened and when, says what it wants done.
///
/// After every `handle_*` and every other change its driver drains [`Self::poll_transmit`],
/// [`Self::poll_tables`] and [`Self::poll_event`]. Times never go back; one that does counts as the latest seen.
pub struct TunnelCore {
    shared: Shared,
    admission: Admission,
    /// What packet threads get copies of.
    tables: Tables,
    /// Something in `tables` changed since the last copy.
    is_changed: bool,
    /// By slot, the random upper 24 bits of the indexes the peer uses towards us (W8).
    peers: ByNumber<u32, Box<Care>>,
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
        let admission = Admission::new(identity.public(), config.role, rng.bytes(), config.limits);
        let shared = Shared {
            now,
            start: now,
            role: config.role,
            mtu: usize::from(config.mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end())),
            own: config.addresses,
            hub: config.prefixes.hub(),
            identity: Arc::new(identity),
            rng,
            output: Output::default(),
        };
        let tables = Tables {
            role: config.role,
            own: config.addresses,
            mtu: shared.mtu,
            answers_echoes: config.answers_echoes,
            conduits: Shards::default(),
            prefixes: Table::default(),
            policy: Arc::default(),
            own_rules: config.own_rules.map(Into::into),
            tracker: Arc::new(Tracker::new(now)),
            own_tracker: Arc::new(Tracker::new(now)),
            macs: MacGate::new(&WgPublicKey::from_bytes(*shared.identity.public().as_bytes())),
        };
        Self {
            shared,
            admission,
            tables,
            is_changed: true,
            peers: ByNumber::default(),
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
            None => self.add_peer(&config),
        };
        let Some(care) = self.peers.get_mut(&slot) else { return Ok(()) };
        for prefix in std::mem::replace(&mut care.allowed, allowed.clone()) {
            self.tables.prefixes.remove(prefix);
        }
        for prefix in allowed {
            self.tables.prefixes.insert(prefix, Arc::clone(&care.conduit));
        }
        self.is_changed = true;
        care.keepalive = config.keepalive;
        self.with_slot(slot, |peer, shared| {
            peer.look_soon(shared);
            peer.set_preshared_key(config.preshared_key);
            let is_new = config.endpoint.is_some() && peer.line.endpoint != config.endpoint;
            peer.line.endpoint = config.endpoint.or(peer.line.endpoint);
            if is_new && shared.role == Role::Spoke {
                peer.start_handshake(shared);
            }
        });
        Ok(())
    }

    /// Removes a peer with its keys and sessions; false where there is none.
    pub fn remove_peer(&mut self, key: &WgPublicKey) -> bool {
        let Some(slot) = self.slots.remove(key) else { return false };
        self.tables.conduits.remove(&slot);
        self.is_changed = true;
        if let Some(care) = self.peers.remove(&slot) {
            for prefix in care.allowed {
                self.tables.prefixes.remove(prefix);
            }
            if let Some(at) = care.scheduled {
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
        self.with_peer(key, |peer, shared| peer.start_handshake(shared))
    }

    /// Moves a peer to another outer address; a spoke dials it at once. False where there is no such peer.
    pub fn set_endpoint(&mut self, key: &WgPublicKey, endpoint: Endpoint, now: Instant) -> bool {
        self.advance(now);
        self.with_peer(key, |peer, shared| {
            peer.line.move_to(endpoint, shared.now);
            if shared.role == Role::Spoke {
                peer.start_handshake(shared);
            }
        })
    }

    /// Moves a peer to a way that has answered a probe: sessions and flows go on, the peer learns of it at once, and
    /// for a few seconds only a handshake moves it elsewhere. False where there is no such peer.
    ///
    /// `ceiling` is the largest inner packet in bytes that the carrier takes, where that is known.
    pub fn switch(
        &mut self,
        key: &WgPublicKey,
        endpoint: Endpoint,
        ceiling: Option<u16>,
        now: Instant,
    ) -> bool {
        self.advance(now);
        self.with_peer(key, |peer, shared| peer.switch(&endpoint, ceiling, shared))
    }

    /// Starts a handshake with a peer through `endpoint`, wherever the peer is: it is moved by the answer alone.
    /// False where there is no such peer.
    ///
    /// Two of them may be under way at once.
    pub fn greet(&mut self, key: &WgPublicKey, endpoint: &Endpoint, now: Instant) -> bool {
        self.advance(now);
        self.with_peer(key, |peer, shared| peer.greet(endpoint, shared))
    }

    /// Forgets how new a peer's last handshake was, and its sessions; false where there is no such peer (W11).
    ///
    /// A peer whose clock went back can make no handshake until the old time is reached again. Only a channel
    /// that proves who the peer is by other means may cause this, for it makes old initiations good again.
    pub fn reset_replay_floor(&mut self, key: &WgPublicKey, now: Instant) -> bool {
        self.advance(now);
        self.with_peer(key, |peer, _| peer.reset())
    }

    /// Replaces the policy between spokes.
    pub fn set_policy(&mut self, policy: Policy) {
        self.tables.policy = Arc::new(policy);
        self.is_changed = true;
        // What waits for a session was judged by the policy before.
        for care in self.peers.values_mut() {
            care.forget_pending(&mut self.shared.output);
        }
    }

    /// A copy of what packet threads need.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.tables.clone()
    }

    /// A copy of what packet threads need, where it changed since the last one.
    pub fn poll_tables(&mut self) -> Option<Tables> {
        std::mem::take(&mut self.is_changed).then(|| self.tables.clone())
    }

    /// What is known of a peer at the last time told.
    #[must_use]
    pub fn peer_stats(&self, key: &WgPublicKey) -> Option<PeerStats> {
        let care = self.peers.get(self.slots.get(key)?)?;
        Some(care.stats(self.shared.now))
    }

    /// Every peer in the order of its key, and what [`Self::peer_stats`] says of it, with ages as of `now`.
    pub fn all_stats(&self, now: Instant) -> impl Iterator<Item = (WgPublicKey, PeerStats)> + '_ {
        // While nothing happens the core's own time stands still, and so would every age.
        let now = self.shared.now.max(now);
        self.slots.iter().filter_map(move |(key, slot)| Some((*key, self.peers.get(slot)?.stats(now))))
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
            let holder = self.tables.prefixes.holder(*prefix);
            if let Some(holder) = holder.filter(|holder| Some(&holder.slot) != own_slot) {
                return Err(PeerError::PrefixTaken { prefix: *prefix, holder: holder.key });
            }
        }
        Ok(config.allowed_ips.clone())
    }

    /// Gives a new peer a slot that nobody can guess; at most one in 256 is taken, so few draws are needed.
    fn add_peer(&mut self, config: &PeerConfig) -> u32 {
        let slot = loop {
            let slot = self.shared.rng.u32() >> 8;
            if !self.peers.contains_key(&slot) {
                break slot;
            }
        };
        let care = Care::new(config, slot, &mut self.shared);
        self.tables.conduits.insert(slot, Arc::clone(&care.conduit));
        self.peers.insert(slot, Box::new(care));
        self.slots.insert(config.public_key, slot);
        slot
    }

    fn with_peer(&mut self, key: &WgPublicKey, act: impl FnOnce(&mut Peer<'_>, &mut Shared)) -> bool {
        let Some(slot) = self.slots.get(key).copied() else { return false };
        self.with_slot(slot, act);
        true
    }

    /// Works on a peer with its line locked.
    fn with_slot<T>(&mut self, slot: u32, act: impl FnOnce(&mut Peer<'_>, &mut Shared) -> T) -> Option<T> {
        let care = self.peers.get_mut(&slot)?;
        let conduit = Arc::clone(&care.conduit);
        let mut line = conduit.lock();
        let result = act(&mut Peer { care, line: &mut line }, &mut self.shared);
        drop(line);
        self.schedule(slot);
        Some(result)
    }
}

/// Inputs.
impl TunnelCore {
    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some((at, slot)) = self.timers.first().copied()
            && at <= self.shared.now
        {
            self.timers.remove(&(at, slot));
            if let Some(care) = self.peers.get_mut(&slot) {
                care.scheduled = None;
            }
            if self.with_slot(slot, |peer, shared| peer.handle_timeout(shared)) == Some(true) {
                self.note_known(slot);
            }
        }
    }

    fn handle_initiation(&mut self, from: &Endpoint, datagram: &[u8]) {
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

    fn handle_response(&mut self, from: &Endpoint, datagram: &[u8], receiver: u32) {
        let slot = slot(receiver);
        if !self.peers.contains_key(&slot) {
            self.discard(Discard::UnknownIndex);
        } else if self.admit(from, datagram) {
            self.with_slot(slot, |peer, shared| peer.handle_response(from, datagram, receiver, shared));
        }
    }

    fn admit(&mut self, from: &Endpoint, datagram: &[u8]) -> bool {
        match self.admission.judge(from.remote, datagram, self.shared.now) {
            Verdict::Admit => true,
            Verdict::Cookie(reply) => {
                self.discard(Discard::CookieSent);
                self.shared.output.transmit(*from, reply);
                false
            }
            Verdict::Refuse(discard) => {
                self.discard(discard);
                false
            }
        }
    }

    /// Takes what a packet thread could not deal with.
    pub fn handle_notice(&mut self, notice: Notice, now: Instant) {
        self.advance(now);
        match notice {
            Notice::Handshake { from, datagram } => self.handle_handshake(&from, &datagram),
            Notice::Begun { slot } => {
                self.with_slot(slot, |peer, shared| peer.begin_once(shared));
                self.note_known(slot);
            }
            Notice::Roamed { slot } => {
                self.with_slot(slot, |peer, shared| peer.note_roamed(shared));
                self.note_known(slot);
            }
            Notice::Large { slot } => {
                self.with_slot(slot, |peer, shared| peer.follow_search(shared));
            }
            Notice::Unsent { slot, packet } => {
                self.with_slot(slot, |peer, shared| peer.send(&packet, shared));
            }
            Notice::Echo { slot, from, mut packet } => {
                if let Ok(header) = Header::parse(&packet) {
                    self.handle_echo(slot, &from, &header, &mut packet);
                }
            }
        }
    }

    /// Keeps a place in the lane of known peers for where a peer is now.
    fn note_known(&mut self, slot: u32) {
        if let Some(Some(endpoint)) = self.with_slot(slot, |peer, _| peer.line.endpoint) {
            self.admission.note_known(endpoint.remote, self.shared.now);
        }
    }

    fn handle_handshake(&mut self, from: &Endpoint, datagram: &[u8]) {
        match Message::parse(datagram) {
            Some(Message::Initiation { .. }) => self.handle_initiation(from, datagram),
            Some(Message::Response { receiver, .. }) => self.handle_response(from, datagram, receiver),
            Some(Message::Cookie { receiver }) => {
                let known =
                    self.with_slot(slot(receiver), |peer, shared| peer.handle_cookie(from, datagram, shared));
                if known.is_none() {
                    self.discard(Discard::UnknownIndex);
                }
            }
            Some(Message::Data { .. }) | None => self.discard(Discard::NotWireGuard),
        }
    }
}

/// Outputs.
impl TunnelCore {
    /// The next datagram to send; give its payload back by [`Self::recycle`] to spare an allocation.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.output.poll_transmit()
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
        let Some(care) = self.peers.get_mut(&slot) else { return };
        let soonest = self.shared.now + Duration::from_millis(1);
        let wanted = care.deadline(self.shared.now).max(soonest);
        let wanted = match self.shared.role {
            Role::Hub if wanted >= self.shared.now + COARSE_AFTER => self.shared.coarse(wanted),
            Role::Hub | Role::Spoke => wanted,
        };
        match care.scheduled {
            Some(at) if at <= wanted => return,
            Some(at) => {
                self.timers.remove(&(at, slot));
            }
            None => {}
        }
        care.scheduled = Some(wanted);
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
