//! A panic in the cipher library for one peer, among others (W10).
#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use blueprint_common_types::{OverlayLease, WgPrivateKey, WgPublicKey};

use crate::{Config, Discard, Limits, OverlayPrefixes, PeerConfig, Role, SoloTunnel};

/// A hub and two spokes, each at the place of its number.
struct Star {
    ends: Vec<SoloTunnel>,
    now: Instant,
}

fn lease(end: u8) -> OverlayLease {
    OverlayLease { v4: Ipv4Addr::new(10, 7, 0, end + 1), v6: format!("fd07::{}", end + 1).parse().unwrap() }
}

fn address(end: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, end], 51820))
}

fn key(end: u8) -> WgPublicKey {
    WgPrivateKey::from_bytes([end + 1; 32]).public_key()
}

fn peer(end: u8) -> PeerConfig {
    let allowed_ips = vec![IpAddr::from(lease(end).v4).into(), IpAddr::from(lease(end).v6).into()];
    let endpoint = (end == 0).then(|| address(0).into());
    PeerConfig { public_key: key(end), allowed_ips, endpoint, preshared_key: None, keepalive: None }
}

impl Star {
    fn up() -> Self {
        let now = Instant::now();
        let config = |end: u8| Config {
            private_key: WgPrivateKey::from_bytes([end + 1; 32]),
            addresses: lease(end),
            prefixes: OverlayPrefixes {
                v4: "10.7.0.0/24".parse().unwrap(),
                v6: "fd07::/64".parse().unwrap(),
            },
            role: if end == 0 { Role::Hub } else { Role::Spoke },
            mtu: 1420,
            limits: Limits::default(),
            answers_echoes: true,
            own_rules: None,
            seed: [end; 32],
        };
        let mut star = Self { ends: (0..3).map(|end| SoloTunnel::new(config(end), now)).collect(), now };
        for spoke in [1, 2] {
            star.ends[0].upsert_peer(peer(spoke), now).unwrap();
            star.ends[usize::from(spoke)].upsert_peer(peer(0), now).unwrap();
        }
        star.run(Duration::from_secs(2));
        star
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(20);
            self.ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
            self.settle();
        }
    }

    /// Carries datagrams until none is left.
    fn settle(&mut self) {
        loop {
            let sent = (0u8..).zip(&mut self.ends).find_map(|(from, end)| Some((from, end.poll_transmit()?)));
            let Some((from, transmit)) = sent else { return };
            let to = (0u8..3).find(|end| address(*end) == transmit.to.remote);
            let Some(to) = to else { continue };
            self.ends[usize::from(to)].handle_datagram(address(from), &transmit.payload, self.now);
        }
    }

    /// Whether a packet of a spoke comes to the hub.
    fn passes(&mut self, spoke: u8) -> bool {
        while self.ends[0].poll_packet().is_some() {}
        let (from, to) = (lease(spoke).v4, lease(0).v4);
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(from.octets());
        packet.extend(to.octets());
        let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        self.ends[usize::from(spoke)].handle_packet(&packet, self.now);
        self.settle();
        self.ends[0].poll_packet().is_some()
    }

    /// The library panics at the hub with the next message of, or to, this spoke.
    fn doom(&self, spoke: u8) {
        let tables = self.ends[0].tables();
        let conduit = tables.prefixes.lookup(lease(spoke).v4.into()).unwrap();
        conduit.lock().noise.panics_next = true;
    }
}

#[test]
fn w10_a_panic_for_one_peer_stops_no_other_and_it_is_back_soon() {
    let mut star = Star::up();
    assert!(star.passes(1) && star.passes(2));
    let before = star.ends[0].stats().handshakes;
    star.doom(1);
    assert!(!star.passes(1), "it is the one that the panic costs its packet");
    assert_eq!(star.ends[0].stats().discarded(Discard::LibraryPanic), 1);
    assert!(star.passes(2));
    for _ in 0..250 {
        star.run(Duration::from_millis(20));
        assert!(star.passes(2));
    }
    assert!(star.passes(1), "back within 5 s");
    let made = star.ends[0].stats().handshakes - before;
    assert_eq!(made, 1, "one needed a new session, and the other kept its own");
}

#[test]
fn w10_panics_again_and_again_stop_no_other() {
    let mut star = Star::up();
    for _ in 0..500 {
        star.doom(1);
        star.run(Duration::from_millis(20));
        assert!(star.passes(2));
    }
    assert!(star.ends[0].stats().discarded(Discard::LibraryPanic) > 5);
    star.run(Duration::from_secs(5));
    assert!(star.passes(1));
}
