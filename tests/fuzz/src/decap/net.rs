//! The simulated network and what it knows to be true.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "fails loudly where a property does not hold"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{
    Config, Discard, Endpoint, Limits, OverlayPrefixes, PeerConfig, PeerStats, Policy, Role, Rule, SoloTunnel,
};
use blueprint_common_types::{OverlayLease, WgPrivateKey, WgPublicKey};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::wire;

pub(super) const HUB: usize = 0;
pub(super) const A: usize = 1;
pub(super) const B: usize = 2;
/// Datagrams one hand-over may cause at most: a few packets that waited, keepalives, probes.
const MAX_CAUSED: usize = 512;
const MAX_FLYING: usize = 256;

pub(super) struct End {
    pub(super) address: SocketAddr,
    pub(super) core: SoloTunnel,
}

/// Whether a genuine datagram may still count as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credit {
    Fresh,
    Spent,
}

/// A datagram that an end made.
pub(super) struct Genuine {
    from: usize,
    to: SocketAddr,
    pub(super) bytes: Vec<u8>,
    credit: Credit,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) ends: Vec<End>,
    pub(super) genuine: Vec<Genuine>,
    /// Places in `genuine`.
    pub(super) flying: VecDeque<usize>,
    /// What may come out where: the packet and whether it did.
    packets: BTreeMap<(usize, Vec<u8>), bool>,
    serial: u32,
}

fn private(end: usize) -> [u8; 32] {
    [u8::try_from(end).unwrap() + 1; 32]
}

pub(super) fn key(end: usize) -> WgPublicKey {
    WgPublicKey::from_bytes(PublicKey::from(&StaticSecret::from(private(end))).to_bytes())
}

fn lease(end: usize) -> OverlayLease {
    let last = u8::try_from(end).unwrap() + 1;
    OverlayLease { v4: Ipv4Addr::new(10, 7, 0, last), v6: [0xfd07, 0, 0, 0, 0, 0, 0, last.into()].into() }
}

fn address(end: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(end).unwrap() + 1], 51820))
}

fn config(end: usize) -> Config {
    let prefixes = OverlayPrefixes { v4: "10.7.0.0/16".parse().unwrap(), v6: "fd07::/64".parse().unwrap() };
    Config {
        private_key: WgPrivateKey::from_bytes(private(end)),
        addresses: lease(end),
        prefixes,
        role: if end == HUB { Role::Hub } else { Role::Spoke },
        mtu: 1420,
        limits: Limits::default(),
        answers_echoes: true,
        own_rules: None,
        seed: [u8::try_from(end).unwrap(); 32],
    }
}

/// What `end` is to the others.
fn peer(end: usize) -> PeerConfig {
    let OverlayLease { v4, v6 } = lease(end);
    let (allowed_ips, endpoint) = if end == HUB {
        (vec!["10.7.0.0/16".parse().unwrap(), "fd07::/64".parse().unwrap()], Some(address(HUB).into()))
    } else {
        (vec![IpAddr::from(v4).into(), IpAddr::from(v6).into()], None)
    };
    PeerConfig { public_key: key(end), allowed_ips, endpoint, preshared_key: None, keepalive: None }
}

/// Whose messages an end takes.
const fn peers_of(end: usize) -> &'static [usize] {
    if end == HUB { &[A, B] } else { &[HUB] }
}

impl Net {
    /// A hub and two spokes that have sessions and answer echoes.
    pub(super) fn up() -> Self {
        let now = Instant::now();
        let ends =
            (HUB..=B).map(|end| End { address: address(end), core: SoloTunnel::new(config(end), now) });
        let mut net = Self {
            now,
            ends: ends.collect(),
            genuine: Vec::new(),
            flying: VecDeque::new(),
            packets: BTreeMap::new(),
            serial: 0,
        };
        let mut policy = Policy::deny_all();
        policy.allow(key(A), key(B), Rule::ANY);
        net.ends[HUB].core.set_policy(policy);
        for spoke in [A, B] {
            net.ends[HUB].core.upsert_peer(peer(spoke), now).unwrap();
            net.ends[spoke].core.upsert_peer(peer(HUB), now).unwrap();
        }
        net.pass_time(Duration::from_millis(20), true);
        assert!(net.is_alive());
        net
    }

    fn stats(&self, end: usize, peer: usize) -> PeerStats {
        self.ends[end].core.peer_stats(&key(peer)).unwrap()
    }

    fn is_alive(&self) -> bool {
        [A, B].iter().all(|spoke| self.stats(HUB, *spoke).echo.alive && self.stats(*spoke, HUB).echo.alive)
    }

    /// The public key of an end, as first MACs need it.
    pub(super) fn public(end: usize) -> [u8; 32] {
        *key(end).as_bytes()
    }

    /// Hands datagrams of `stride` bytes each to an end, and checks what follows.
    pub(super) fn hand(&mut self, to: usize, from: SocketAddr, run: &[u8], stride: usize) {
        let before: Vec<_> = peers_of(to).iter().map(|peer| (*peer, self.stats(to, *peer))).collect();
        let candidates: Vec<_> = before.iter().map(|(peer, _)| self.candidates(*peer, run, stride)).collect();
        self.ends[to].core.handle_run(from, run, stride, self.now);
        for ((peer, before), candidates) in before.iter().zip(&candidates) {
            self.check_received(to, (*peer, before), candidates, from);
        }
        let caused = self.pump(to);
        assert!(caused.len() <= MAX_CAUSED, "{} datagrams caused", caused.len());
        if candidates.iter().all(BTreeSet::is_empty) {
            let asking = run.chunks(stride).filter(|one| wire::has_first_mac(&Self::public(to), one));
            let asking: Vec<_> = asking.map(<[u8]>::len).collect();
            assert!(caused.len() <= asking.len(), "answered without a first MAC");
            for place in caused {
                let answer = &self.genuine[place];
                assert_eq!(answer.to, from);
                assert!(asking.iter().any(|len| answer.bytes.len() < *len), "more out than in");
            }
        }
    }

    /// Datagrams in a run that `peer` made and that may still count.
    fn candidates(&self, peer: usize, run: &[u8], stride: usize) -> BTreeSet<usize> {
        let chunks: BTreeSet<&[u8]> = run.chunks(stride).map(wire::vouched).collect();
        let fresh = self.genuine.iter().enumerate().filter(|(_, genuine)| {
            (genuine.from, genuine.credit) == (peer, Credit::Fresh)
                && chunks.contains(wire::vouched(&genuine.bytes))
        });
        fresh.map(|(place, _)| place).collect()
    }

    fn check_received(
        &mut self,
        to: usize,
        (peer, before): (usize, &PeerStats),
        candidates: &BTreeSet<usize>,
        from: SocketAddr,
    ) {
        let after = self.stats(to, peer);
        let len = |place: &usize| u64::try_from(self.genuine[*place].bytes.len()).unwrap();
        let most: u64 = candidates.iter().map(len).sum();
        let growth = after.rx_bytes - before.rx_bytes;
        assert!(growth <= most, "{growth} bytes counted as received of {most}");
        if growth > 0 && growth == most {
            for place in candidates {
                self.genuine[*place].credit = Credit::Spent;
            }
        }
        if after.endpoint != before.endpoint {
            assert!(growth > 0, "an endpoint moved without an authentic message");
            assert_eq!(after.endpoint, Some(Endpoint::from(from)), "an endpoint moved elsewhere");
        }
    }

    /// Takes everything out of an end: datagrams fly, packets are checked. Gives the datagrams' places.
    pub(super) fn pump(&mut self, end: usize) -> Vec<usize> {
        let core = &mut self.ends[end].core;
        while core.poll_event().is_some() {}
        let mut caused = Vec::new();
        while let Some(transmit) = core.poll_transmit() {
            caused.push(self.genuine.len());
            let (to, bytes) = (transmit.to.remote, transmit.payload);
            self.genuine.push(Genuine { from: end, to, bytes, credit: Credit::Fresh });
        }
        while let Some(packet) = core.poll_packet() {
            let before = self.packets.insert((end, packet), true);
            assert_eq!(before, Some(false), "a packet that nobody sent here, or a second time");
        }
        self.flying.extend(&caused);
        self.flying.drain(..self.flying.len().saturating_sub(MAX_FLYING));
        caused
    }

    /// Delivers the oldest datagram in flight as it is; false where none is.
    pub(super) fn deliver(&mut self) -> bool {
        let Some(place) = self.flying.pop_front() else { return false };
        let Genuine { from, to, bytes, .. } = &self.genuine[place];
        let (source, bytes) = (self.ends[*from].address, bytes.clone());
        if let Some(end) = self.ends.iter().position(|end| end.address == *to) {
            self.hand(end, source, &bytes, bytes.len());
        }
        true
    }

    /// Lets time pass, with every end woken when it asked to be; an honest network delivers all at once.
    pub(super) fn pass_time(&mut self, time: Duration, is_honest: bool) {
        let until = self.now + time;
        loop {
            for end in HUB..=B {
                self.pump(end);
            }
            while is_honest && self.deliver() {}
            let next = self.ends.iter().filter_map(|end| end.core.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                if end.core.poll_timeout().is_some_and(|at| at <= self.now) {
                    end.core.handle_timeout(self.now);
                    assert!(end.core.poll_timeout().is_none_or(|at| at > self.now), "a driver would spin");
                }
            }
        }
        self.now = until;
    }

    /// Lets an end send a UDP packet with so many bytes to another, and notes what may come out there.
    pub(super) fn send(&mut self, from: usize, to: usize, size: usize, is_v6: bool) -> Vec<u8> {
        self.serial += 1;
        let mut payload = self.serial.to_be_bytes().to_vec();
        payload.resize(size.max(4), 0x5a);
        let address = |lease: OverlayLease| if is_v6 { IpAddr::V6(lease.v6) } else { IpAddr::V4(lease.v4) };
        let packet = wire::udp_packet(address(lease(from)), address(lease(to)), [7, 9], &payload);
        let expected = if from == HUB || to == HUB { packet.clone() } else { wire::after_hop(&packet) };
        self.packets.insert((to, expected.clone()), false);
        self.ends[from].core.handle_packet(&packet, self.now);
        self.pump(from);
        expected
    }

    /// The control channel lets a spoke's old initiations count again.
    pub(super) fn lower_floor(&mut self, spoke: usize) {
        assert!(self.ends[HUB].core.reset_replay_floor(&key(spoke), self.now));
        self.forgive(spoke);
    }

    /// The hub forgets a spoke and takes it again.
    pub(super) fn rejoin(&mut self, spoke: usize) {
        assert!(self.ends[HUB].core.remove_peer(&key(spoke)));
        self.ends[HUB].core.upsert_peer(peer(spoke), self.now).unwrap();
        self.forgive(spoke);
    }

    fn forgive(&mut self, spoke: usize) {
        let initiations = self.genuine.iter_mut().filter(|one| one.from == spoke && one.bytes.len() == 148);
        initiations.for_each(|one| one.credit = Credit::Fresh);
    }

    /// On an honest network the spokes come back, and packets pass.
    pub(super) fn come_back(&mut self) {
        self.flying.clear();
        let mut waited = Duration::ZERO;
        while !(self.is_alive() && self.all_pass()) {
            assert!(waited < Duration::from_secs(30), "not back after {waited:?}");
            waited += Duration::from_millis(500);
            self.pass_time(Duration::from_millis(500), true);
            self.dial_where_strayed();
        }
    }

    /// Packets pass in all directions that are used.
    fn all_pass(&mut self) -> bool {
        [(A, HUB), (B, HUB), (A, B), (HUB, A)].into_iter().all(|(from, to)| {
            let expected = self.send(from, to, 64, false);
            self.pass_time(Duration::from_millis(1), true);
            self.packets[&(to, expected)]
        })
    }

    /// A spoke that is led astray dials the hub's configured address again, as an agent does.
    fn dial_where_strayed(&mut self) {
        for spoke in [A, B] {
            let stats = self.stats(spoke, HUB);
            let configured = Endpoint::from(self.ends[HUB].address);
            if !stats.echo.alive && stats.endpoint.is_none_or(|at| !at.is_same_way(&configured)) {
                assert!(self.ends[spoke].core.set_endpoint(&key(HUB), configured, self.now));
            }
        }
    }

    /// The library never panicked, and no queue was full.
    pub(super) fn check_counts(&self) {
        for end in &self.ends {
            for discard in [Discard::LibraryPanic, Discard::EventFull] {
                assert_eq!(end.core.stats().discarded(discard), 0, "{discard:?}");
            }
        }
    }
}
