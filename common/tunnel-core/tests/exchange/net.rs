//! The simulated network: cores at addresses, datagrams in flight, one clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{
    Config, Discard, Event, Limits, OverlayPrefixes, PeerConfig, PeerStats, Role, SoloTunnel, Transmit,
};
use blueprint_common_types::{OverlayLease, WgPrivateKey, WgPublicKey};
use boringtun::noise::{Tunn, TunnResult};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) const HUB: usize = 0;
pub(crate) const A: usize = 1;
pub(crate) const B: usize = 2;
pub(crate) const MTU: u16 = 1420;

/// Looks at a datagram from one end to another before it is put in flight; false loses it.
pub(crate) type Path = Box<dyn FnMut(SocketAddr, SocketAddr, &[u8]) -> bool>;

pub(crate) struct End {
    pub(crate) address: SocketAddr,
    pub(crate) core: SoloTunnel,
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) events: Vec<Event>,
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) ends: Vec<End>,
    pub(crate) path: Path,
    pub(crate) delay: Duration,
    /// The last datagrams that were put in flight, newest last.
    pub(crate) seen: VecDeque<(SocketAddr, Transmit)>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, Transmit)>,
    count: u64,
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn address(end: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(end).unwrap() + 1], 51820))
}

fn private(end: usize) -> [u8; 32] {
    [u8::try_from(end).unwrap() + 1; 32]
}

pub(crate) fn key(end: usize) -> WgPublicKey {
    WgPublicKey::from_bytes(PublicKey::from(&StaticSecret::from(private(end))).to_bytes())
}

pub(crate) fn lease(end: usize) -> OverlayLease {
    let last = u8::try_from(end).unwrap() + 1;
    OverlayLease { v4: Ipv4Addr::new(10, 7, 0, last), v6: format!("fd07::{last}").parse().unwrap() }
}

pub(crate) fn config(end: usize) -> Config {
    let prefixes = OverlayPrefixes { v4: "10.7.0.0/16".parse().unwrap(), v6: "fd07::/64".parse().unwrap() };
    let role = if end == HUB { Role::Hub } else { Role::Spoke };
    let private_key = WgPrivateKey::from_bytes(private(end));
    Config {
        private_key,
        addresses: lease(end),
        prefixes,
        role,
        mtu: MTU,
        limits: Limits::default(),
        answers_echoes: true,
        own_rules: None,
        seed: [u8::try_from(end).unwrap(); 32],
    }
}

/// What `end` is to `other`.
pub(crate) fn peer(end: usize) -> PeerConfig {
    let OverlayLease { v4, v6 } = lease(end);
    let (allowed_ips, endpoint) = if end == HUB {
        (vec!["10.7.0.0/16".parse().unwrap(), "fd07::/64".parse().unwrap()], Some(address(HUB).into()))
    } else {
        (vec![IpAddr::from(v4).into(), IpAddr::from(v6).into()], None)
    };
    PeerConfig { public_key: key(end), allowed_ips, endpoint, preshared_key: None, keepalive: None }
}

impl Net {
    /// A hub that knows two spokes, which dial it at once.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let ends = (HUB..=B).map(|end| End {
            address: address(end),
            core: SoloTunnel::new(config(end), now),
            packets: Vec::new(),
            events: Vec::new(),
        });
        let mut net = Self {
            now,
            ends: ends.collect(),
            path: Box::new(|_, _, _| true),
            delay: ms(10),
            seen: VecDeque::new(),
            flying: BTreeMap::new(),
            count: 0,
        };
        for spoke in [A, B] {
            net.ends[HUB].core.upsert_peer(peer(spoke), now).unwrap();
            net.ends[spoke].core.upsert_peer(peer(HUB), now).unwrap();
        }
        net
    }

    /// The same after one second, in which both spokes come up.
    pub(crate) fn up() -> Self {
        let mut net = Self::new();
        net.run(ms(1000));
        assert!([A, B].into_iter().all(|spoke| net.is_alive(spoke)));
        net.forget();
        net
    }

    pub(crate) fn forget(&mut self) {
        self.ends.iter_mut().for_each(|end| end.events.clear());
    }

    /// Lets time pass; every core is woken when it asked to be and no sooner than something happened.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.settle();
        loop {
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.ends.iter().filter_map(|end| end.core.poll_timeout());
            let next = wakes.chain(arrival).min().unwrap_or(until);
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            while let Some(first) = self.flying.first_entry().filter(|first| first.key().0 <= self.now) {
                let (from, Transmit { to, payload }) = first.remove();
                if let Some(end) = self.ends.iter_mut().find(|end| end.address == to.remote) {
                    end.core.handle_datagram(from, &payload, self.now);
                }
            }
            for end in &mut self.ends {
                if end.core.poll_timeout().is_some_and(|at| at <= self.now) {
                    end.core.handle_timeout(self.now);
                    assert!(end.core.poll_timeout().is_none_or(|at| at > self.now));
                }
            }
            self.settle();
        }
        self.now = until;
    }

    /// Drains every core.
    pub(crate) fn settle(&mut self) {
        for end in &mut self.ends {
            end.events.extend(std::iter::from_fn(|| end.core.poll_event()));
            end.packets.extend(std::iter::from_fn(|| end.core.poll_packet()));
            while let Some(transmit) = end.core.poll_transmit() {
                self.seen.push_back((end.address, transmit.clone()));
                self.seen.drain(..self.seen.len().saturating_sub(1000));
                if (self.path)(end.address, transmit.to.remote, &transmit.payload) {
                    self.count += 1;
                    self.flying.insert((self.now + self.delay, self.count), (end.address, transmit));
                }
            }
        }
    }

    /// Gives a packet to an end's core and lets it arrive; what came out at the other.
    pub(crate) fn pass(&mut self, from: usize, to: usize, packet: &[u8]) -> Vec<Vec<u8>> {
        self.ends[to].packets.clear();
        self.ends[from].core.handle_packet(packet, self.now);
        self.run(self.delay * 3);
        std::mem::take(&mut self.ends[to].packets)
    }

    /// What hub and spoke know of each other: the spoke's word for its way to the hub, and the hub's.
    pub(crate) fn stats(&self, spoke: usize) -> [PeerStats; 2] {
        let at = |end: usize, other| self.ends[end].core.peer_stats(&key(other)).unwrap();
        [at(spoke, HUB), at(HUB, spoke)]
    }

    pub(crate) fn is_alive(&self, spoke: usize) -> bool {
        self.stats(spoke).iter().all(|stats| stats.echo.alive)
    }

    /// How long until both ends call the data plane alive; at most a minute.
    pub(crate) fn time_to_life(&mut self, spoke: usize) -> Duration {
        let start = self.now;
        while !self.is_alive(spoke) && self.now < start + ms(60_000) {
            self.run(ms(10));
        }
        self.now - start
    }

    pub(crate) fn discarded(&self, end: usize, discard: Discard) -> u64 {
        self.ends[end].core.stats().discarded(discard)
    }

    /// The newest datagram of a type from an end.
    pub(crate) fn newest(&self, end: usize, kind: u8) -> Transmit {
        let from = self.ends[end].address;
        let mut newest = self.seen.iter().rev();
        newest.find(|(source, sent)| *source == from && sent.payload[0] == kind).unwrap().1.clone()
    }

    /// Hands a datagram to an end as if it came from `from`.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: usize, payload: &[u8]) {
        self.ends[to].core.handle_datagram(from, payload, self.now);
        self.settle();
    }
}

/// Joins the hub as end 3 with the bare library and without echoes, as any WireGuard would; from `home`.
pub(crate) fn join_foreign(
    net: &mut Net,
    home: SocketAddr,
    keepalive: Option<Duration>,
) -> (WgPublicKey, Tunn) {
    let secret = StaticSecret::from([99; 32]);
    let public_key = WgPublicKey::from_bytes(PublicKey::from(&secret).to_bytes());
    net.ends[HUB].core.upsert_peer(PeerConfig { public_key, keepalive, ..peer(3) }, net.now).unwrap();
    let mut tunn = Tunn::new(secret, PublicKey::from(*key(HUB).as_bytes()), None, None, 77, None);
    let (mut out, mut into) = ([0u8; 148], [0u8; 148]);
    let TunnResult::WriteToNetwork(initiation) = tunn.format_handshake_initiation(&mut out, false) else {
        unreachable!("the library has no reason to refuse");
    };
    net.inject(home, HUB, initiation);
    let (_, answer) = net.seen.back().unwrap().clone();
    assert_eq!(answer.to.remote, home);
    let TunnResult::WriteToNetwork(confirmation) = tunn.decapsulate(None, &answer.payload, &mut into) else {
        unreachable!("the hub's answer is good");
    };
    net.inject(home, HUB, confirmation);
    (public_key, tunn)
}

/// A UDP packet between the IPv4 addresses of two ends.
pub(crate) fn packet(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (lease(from).v4, lease(to).v4);
    let length = u16::try_from(28 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0, 7, 0, 9]);
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The same between their IPv6 addresses.
pub(crate) fn packet_v6(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(lease(from).v6.octets());
    packet.extend(lease(to).v6.octets());
    packet.extend([0, 7, 0, 9]);
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    packet.extend([1, 1]);
    packet.extend(payload);
    packet
}
