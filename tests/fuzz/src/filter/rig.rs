//! A hub, and spokes that have nothing but a session: what they send is up to whoever drives them.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "fails loudly where a property does not hold"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{
    Config, Discard, Limits, OverlayPrefixes, Party, PeerConfig, Policy, Protocol, Role, Rule, SoloTunnel,
};
use blueprint_common_types::{OverlayLease, WgPrivateKey, WgPublicKey};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use ipnetwork::IpNetwork;
use x25519_dalek::{PublicKey, StaticSecret};

use super::model::{Fate, Grant, Kind, Model};
use super::{Outcome, SPOKES, model};

pub(super) const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
pub(super) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);
/// A session lives 180 s; the spokes' own clock is the real one, which hardly moves.
const REJOIN_AFTER: Duration = Duration::from_secs(60);
/// Bytes that a data message adds.
const OVERHEAD: usize = 32;

static KEYS: LazyLock<[(StaticSecret, PublicKey); SPOKES + 1]> = LazyLock::new(|| {
    [1u8, 2, 3, 4, 5].map(|number| {
        let secret = StaticSecret::from([number; 32]);
        let public = PublicKey::from(&secret);
        (secret, public)
    })
});

fn key(spoke: usize) -> WgPublicKey {
    WgPublicKey::from_bytes(KEYS[spoke].1.to_bytes())
}

fn address(spoke: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10 + u8::try_from(spoke).unwrap()], 51820))
}

pub(super) struct Rig {
    pub(super) model: Model,
    hub: SoloTunnel,
    spokes: Vec<Tunn>,
    start: Instant,
    now: Instant,
    joined_at: Instant,
}

impl Rig {
    /// Puts the model's prefixes and grants into a hub, and lets all spokes but the last join.
    pub(super) fn new(model: Model) -> Self {
        let now = Instant::now();
        let prefixes =
            OverlayPrefixes { v4: "10.7.0.0/16".parse().unwrap(), v6: "fd07::/64".parse().unwrap() };
        let hub = SoloTunnel::new(
            Config {
                private_key: WgPrivateKey::from_bytes([5; 32]),
                addresses: OverlayLease { v4: OWN_V4, v6: OWN_V6 },
                prefixes,
                role: Role::Hub,
                mtu: 1420,
                limits: Limits::default(),
                answers_echoes: model.answers_echoes,
                own_rules: model.own_rules.as_ref().map(|rules| rules.iter().map(rule).collect()),
                seed: [9; 32],
            },
            now,
        );
        let tunn = |spoke: usize| {
            let number = u32::try_from(spoke).unwrap();
            // Its own limit of handshakes counts real seconds.
            let limiter = Arc::new(RateLimiter::new(&KEYS[spoke].1, u64::MAX));
            Tunn::new(KEYS[spoke].0.clone(), KEYS[SPOKES].1, None, None, number, Some(limiter))
        };
        let spokes = (0..SPOKES).map(tunn).collect();
        let mut rig = Self { model, hub, spokes, start: now, now, joined_at: now };
        (0..SPOKES).for_each(|spoke| rig.apply_prefixes(spoke));
        rig.apply_grants();
        rig.join();
        rig
    }

    /// Gives the hub the model's prefixes of a spoke; what another holds it refuses.
    pub(super) fn apply_prefixes(&mut self, spoke: usize) {
        let network = |(prefix, len, _): &(IpAddr, u8, usize)| IpNetwork::new(*prefix, *len).unwrap();
        let own = self.model.prefixes.iter().filter(|(_, _, holder)| *holder == spoke);
        let allowed_ips: Vec<_> = own.map(network).collect();
        let config = PeerConfig {
            public_key: key(spoke),
            allowed_ips,
            endpoint: None,
            preshared_key: None,
            keepalive: None,
        };
        self.hub.upsert_peer(config.clone(), self.now).unwrap();
        if let Some(foreign) = self.model.prefixes.iter().find(|(_, _, holder)| *holder < spoke) {
            let config = PeerConfig { allowed_ips: vec![network(foreign)], ..config };
            assert!(self.hub.upsert_peer(config, self.now).is_err(), "the prefix is taken");
        }
    }

    /// Gives the hub the model's policy.
    pub(super) fn apply_grants(&mut self) {
        let mut policy = Policy::deny_all();
        for Grant { source, destination, rules } in &self.model.grants {
            policy.grant(&party(*source), &party(*destination), rules.iter().map(rule).collect());
        }
        self.hub.set_policy(policy);
    }

    fn join(&mut self) {
        self.joined_at = self.now;
        let is_joined = self.model.is_joined;
        for spoke in (0..SPOKES).filter(|spoke| is_joined[*spoke]) {
            self.empty();
            let mut out = [0; 256];
            let tunn = &mut self.spokes[spoke];
            let initiation = network(tunn.format_handshake_initiation(&mut out, true));
            self.hub.handle_datagram(address(spoke), &initiation, self.now);
            let answer = self.hub.poll_transmit().unwrap().payload;
            let confirmation = network(self.spokes[spoke].decapsulate(None, &answer, &mut out));
            self.hub.handle_datagram(address(spoke), &confirmation, self.now);
        }
        self.empty();
    }

    fn empty(&mut self) {
        while self.hub.poll_transmit().is_some() {}
        while self.hub.poll_event().is_some() {}
        assert_eq!(self.hub.poll_packet(), None);
    }

    /// Lets time pass; sessions that get old are made anew.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.hub.handle_timeout(self.now);
        assert!(self.hub.poll_timeout().is_none_or(|at| at > self.now), "a driver would spin");
        self.empty();
        if self.now - self.joined_at >= REJOIN_AFTER {
            self.join();
        }
    }

    fn second(&self) -> u64 {
        (self.now - self.start).as_secs()
    }

    fn dropped(&self) -> u64 {
        let stats = self.hub.stats();
        stats.discards().map(|(_, count)| count).sum()
    }

    /// Sends plaintexts in one run, each made as long as the longest but for the last, and compares what comes out.
    pub(super) fn send(&mut self, sender: usize, plaintexts: &[Vec<u8>], filling: u8) -> Outcome {
        let longest = plaintexts.iter().map(Vec::len).max().unwrap_or(0);
        let (mut run, mut fates) = (Vec::new(), Vec::new());
        for (number, plaintext) in plaintexts.iter().enumerate() {
            let mut plaintext = plaintext.clone();
            if number + 1 < plaintexts.len() {
                plaintext.resize(longest, filling);
            }
            if plaintext.is_empty() {
                continue;
            }
            let mut out = vec![0; plaintext.len() + 256];
            run.extend(network(self.spokes[sender].encapsulate(&plaintext, &mut out)));
            fates.push(self.model.judge(sender, &plaintext, self.second()));
        }
        let before = self.dropped();
        self.hub.handle_run(address(sender), &run, longest + OVERHEAD, self.now);
        self.compare(sender, fates, before)
    }

    /// Lets the hub's own stack send a packet.
    pub(super) fn send_own(&mut self, packet: &[u8]) -> Outcome {
        let (fate, before) = (self.model.judge_own(packet, self.second()), self.dropped());
        self.hub.handle_packet(packet, self.now);
        self.compare(SPOKES, vec![fate], before)
    }

    fn compare(&mut self, sender: usize, fates: Vec<Fate>, dropped_before: u64) -> Outcome {
        let (mut local, mut sent, mut dropped) = (Vec::new(), vec![Vec::new(); SPOKES], 0);
        let is_plain = fates.iter().all(|fate| !matches!(fate, Fate::Core(_)));
        let refuses_size = fates.iter().any(|fate| matches!(fate, Fate::Drop("too big")));
        let said = format!("{fates:02x?}");
        for fate in fates {
            match fate {
                Fate::Drop(_) => dropped += 1,
                Fate::Local(packet) => local.push(packet),
                Fate::Relay(receiver, packet) => sent[receiver].push(packet),
                Fate::Core(answer) => sent[sender].extend(answer),
            }
        }
        let came: Vec<_> = std::iter::from_fn(|| self.hub.poll_packet()).collect();
        same("delivered", &came, &local, &said)?;
        let mut arrived = self.arrivals();
        if let Some(arrived) = arrived.get_mut(sender).filter(|_| refuses_size) {
            // Told so, within a budget.
            arrived.retain(|packet| !is_too_big(packet));
        }
        for (receiver, expected) in sent.iter().enumerate() {
            same(&format!("sent to spoke {receiver}"), &arrived[receiver], expected, &said)?;
        }
        let counted = self.dropped() - dropped_before;
        if is_plain && counted != dropped {
            return Err(format!("{counted} counted as dropped instead of {dropped}: {said}"));
        }
        assert_eq!(self.hub.stats().discarded(Discard::LibraryPanic), 0);
        while self.hub.poll_event().is_some() {}
        Ok(())
    }

    /// Packets that each spoke finds in the datagrams the hub sent it.
    fn arrivals(&mut self) -> Vec<Vec<Vec<u8>>> {
        let mut arrivals = vec![Vec::new(); SPOKES];
        while let Some(transmit) = self.hub.poll_transmit() {
            let spoke = (0..SPOKES).find(|spoke| address(*spoke) == transmit.to.remote).unwrap();
            if transmit.payload[0] != 4 {
                continue;
            }
            let mut out = vec![0; transmit.payload.len() + 256];
            match self.spokes[spoke].decapsulate(None, &transmit.payload, &mut out) {
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    arrivals[spoke].push(packet.to_vec());
                }
                TunnResult::Done => {}
                failure @ (TunnResult::Err(_) | TunnResult::WriteToNetwork(_)) => {
                    unreachable!("spoke {spoke} cannot read it: {failure:?}");
                }
            }
        }
        arrivals
    }
}

/// True for "fragmentation needed" and "packet too big" of the hub.
fn is_too_big(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[9] == 1 && packet[20..22] == [3, 4],
        _ => packet[6] == 58 && packet[40] == 2,
    }
}

fn same(what: &str, is: &[Vec<u8>], should: &[Vec<u8>], said: &str) -> Outcome {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:02x?} instead of {should:02x?}: {said}")) }
}

fn party(party: model::Party) -> Party {
    match party {
        model::Party::Anyone => Party::Anyone,
        model::Party::Spokes(members) => {
            let of = |spoke: usize| members[spoke].then(|| key(spoke));
            Party::Peers((0..SPOKES).filter_map(of).collect::<BTreeSet<_>>())
        }
    }
}

fn network(result: TunnResult<'_>) -> Vec<u8> {
    let TunnResult::WriteToNetwork(datagram) = result else {
        unreachable!("the library has no reason for {result:?}");
    };
    datagram.to_vec()
}

/// A rule of the model, as the hub has it.
fn rule(rule: &model::Rule) -> Rule {
    let protocol = match rule.kind {
        Kind::Tcp => Protocol::Tcp,
        Kind::Udp => Protocol::Udp,
        Kind::Icmp => Protocol::Icmp,
        Kind::Other => Protocol::Any,
    };
    Rule { protocol, ports: rule.ports.0..=rule.ports.1 }
}
