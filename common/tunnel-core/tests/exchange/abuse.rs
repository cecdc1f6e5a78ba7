//! What strangers and joined liars try.

use std::net::SocketAddr;

use blueprint_common_tunnel_core::{Discard, Event};
use boringtun::noise::{Tunn, TunnResult};
use proptest::prelude::*;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::net::{A, B, HUB, Net, address, join_foreign, key, ms, packet};

fn stranger() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 6666))
}

/// An initiation for the hub of a key that is no peer.
fn unknown_initiation() -> Vec<u8> {
    let hub = PublicKey::from(*key(HUB).as_bytes());
    let mut tunn = Tunn::new(StaticSecret::from([77; 32]), hub, None, None, 1, None);
    let mut out = [0u8; 148];
    let TunnResult::WriteToNetwork(datagram) = tunn.format_handshake_initiation(&mut out, true) else {
        unreachable!("the library has no reason to refuse");
    };
    datagram.to_vec()
}

#[test]
fn nobody_without_a_key_gets_an_answer() {
    let mut net = Net::up();
    net.seen.clear();
    let mut damaged = net_initiation(&mut net);
    damaged[120] ^= 1;
    net.seen.clear();
    net.inject(stranger(), HUB, &damaged);
    assert_eq!(net.discarded(HUB, Discard::InvalidMac), 1);
    net.inject(stranger(), HUB, &unknown_initiation());
    assert_eq!(net.discarded(HUB, Discard::UnknownPeer), 1);
    net.inject(stranger(), HUB, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(net.discarded(HUB, Discard::NotWireGuard), 1);
    assert!(net.seen.is_empty());
}

/// A fresh initiation of spoke A, which the hub does not get.
fn net_initiation(net: &mut Net) -> Vec<u8> {
    net.path = Box::new(|_, _, _| false);
    net.ends[A].core.start_handshake(&key(HUB), net.now);
    net.settle();
    net.path = Box::new(|_, _, _| true);
    net.newest(A, 1).payload
}

#[test]
fn w2_a_counter_near_the_end_is_dropped_before_the_library_sees_it() {
    let mut net = Net::up();
    let mut datagram = net.newest(A, 4).payload;
    for counter in [u64::MAX, u64::MAX - 1, u64::MAX - (1 << 13)] {
        datagram[8..16].copy_from_slice(&counter.to_le_bytes());
        net.inject(address(A), HUB, &datagram);
    }
    assert_eq!(net.discarded(HUB, Discard::CounterLimit), 3);
    datagram[8..16].copy_from_slice(&(u64::MAX - (1 << 13) - 1).to_le_bytes());
    net.inject(address(A), HUB, &datagram);
    assert_eq!(net.discarded(HUB, Discard::CounterLimit), 3);
    assert_eq!(net.discarded(HUB, Discard::Unauthentic), 1);
}

#[test]
fn w5_nothing_but_an_authentic_message_moves_an_endpoint() {
    let mut net = Net::up();
    let before = net.stats(A)[1].endpoint;
    let data = net.newest(A, 4).payload;
    let mut damaged = data.clone();
    *damaged.last_mut().unwrap() ^= 1;
    net.inject(stranger(), HUB, &damaged);
    net.inject(stranger(), HUB, &data);
    assert!(net.discarded(HUB, Discard::Replay) >= 1);
    let old_initiation = net.newest(A, 1).payload;
    net.inject(stranger(), HUB, &old_initiation);
    assert_eq!(net.discarded(HUB, Discard::StaleHandshake), 1);
    let mut cookie = vec![0u8; 64];
    cookie[0] = 3;
    cookie[4..8].copy_from_slice(&data[4..8]);
    net.inject(stranger(), HUB, &cookie);
    assert_eq!(net.stats(A)[1].endpoint, before);
}

#[test]
fn w11_only_the_control_channel_lowers_the_replay_floor() {
    let mut net = Net::up();
    let old_initiation = net.newest(A, 1).payload;
    net.inject(address(A), HUB, &old_initiation);
    assert_eq!(net.discarded(HUB, Discard::StaleHandshake), 1);
    assert!(net.ends[HUB].core.reset_replay_floor(&key(A), net.now));
    net.inject(address(A), HUB, &old_initiation);
    assert_eq!(net.discarded(HUB, Discard::StaleHandshake), 1, "it counts as new again");
    let time = net.time_to_life(A);
    assert!(time <= ms(5000), "took {time:?}");
}

#[test]
fn w6_a_packet_may_come_some_nine_hundred_later_than_its_followers() {
    let mut net = Net::up();
    let (_, mut tunn) = join_foreign(&mut net, stranger(), None);
    let mut out = [0u8; 2048];
    let mut seal = |number: u16| {
        let plain = packet(3, HUB, &number.to_be_bytes());
        let TunnResult::WriteToNetwork(datagram) = tunn.encapsulate(&plain, &mut out) else {
            panic!("no data");
        };
        datagram.to_vec()
    };
    let sealed: Vec<_> = (0..2000).map(&mut seal).collect();
    for (number, is_taken) in [(1999, true), (1099, true), (1099, false), (899, false)] {
        net.ends[HUB].packets.clear();
        net.inject(stranger(), HUB, &sealed[number]);
        assert_eq!(!net.ends[HUB].packets.is_empty(), is_taken, "number {number}");
    }
    assert_eq!(net.discarded(HUB, Discard::Replay), 2);
}

#[test]
fn w8_indexes_are_not_in_order() {
    let net = Net::up();
    let slots: Vec<_> = [A, B].map(|spoke| net.newest(spoke, 4).payload[5..8].to_vec()).to_vec();
    assert_ne!(slots[0], slots[1]);
    assert!(slots.iter().all(|slot| *slot != [0, 0, 0] && *slot != [1, 0, 0]));
}

#[test]
fn a_joined_peer_that_repeats_handshakes_is_slowed_down() {
    let mut net = Net::up();
    for _ in 0..40 {
        net.ends[A].core.start_handshake(&key(HUB), net.now);
    }
    net.run(ms(10));
    assert!(net.discarded(HUB, Discard::PeerHandshakeBudget) >= 25);
    assert!(net.is_alive(B));
    net.run(ms(10_000));
    assert!(net.is_alive(A), "and works on");
}

/// An echo request from end 3 to the hub.
fn echo_request(number: u16) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 9];
    message.extend(number.to_be_bytes());
    let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = packet(3, HUB, &message);
    packet.truncate(20);
    packet.extend(message);
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    (packet[9], packet[10], packet[11]) = (1, 0, 0);
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn a_joined_peer_that_echoes_without_end_is_answered_within_its_budget() {
    let mut net = Net::up();
    let (_, mut tunn) = join_foreign(&mut net, stranger(), None);
    let mut out = [0u8; 2048];
    let mut answers = 0;
    for number in 0..2000 {
        let TunnResult::WriteToNetwork(datagram) = tunn.encapsulate(&echo_request(number), &mut out) else {
            panic!("no data");
        };
        net.seen.clear();
        net.inject(stranger(), HUB, datagram);
        answers += net.seen.iter().filter(|(_, sent)| sent.to.remote == stranger()).count();
    }
    assert_eq!(answers, 200);
    assert_eq!(net.discarded(HUB, Discard::PeerErrandBudget), 1800);
    net.run(ms(5000));
    assert!(net.is_alive(A) && net.is_alive(B));
}

#[test]
fn a_joined_peer_that_moves_with_every_message_is_followed_and_told_of_within_its_budget() {
    let mut net = Net::up();
    let (key, mut tunn) = join_foreign(&mut net, stranger(), None);
    net.forget();
    let mut out = [0u8; 2048];
    for port in 1..=1000u16 {
        let TunnResult::WriteToNetwork(datagram) = tunn.encapsulate(&packet(3, HUB, b"here"), &mut out)
        else {
            panic!("no data");
        };
        let from = SocketAddr::new(stranger().ip(), port);
        net.inject(from, HUB, datagram);
        assert_eq!(net.ends[HUB].core.peer_stats(&key).unwrap().endpoint, Some(from.into()));
    }
    let told = net.ends[HUB].events.iter().filter(|event| matches!(event, Event::Roam { .. })).count();
    assert_eq!(told, 20);
}

#[test]
fn in_a_flood_an_honest_spoke_still_comes_up() {
    let mut net = Net::new();
    let junk = unknown_initiation();
    let mut worst = ms(0);
    let start = net.now;
    for tick in 0..400u32 {
        for number in 0..20u32 {
            let [_, a, b, c] = (tick * 20 + number).to_be_bytes();
            net.inject(SocketAddr::from(([100, a, b, c], 1000)), HUB, &junk);
        }
        net.run(ms(10));
        if worst.is_zero() && net.is_alive(A) {
            worst = net.now - start;
        }
    }
    assert!(net.discarded(HUB, Discard::CookieSent) > 1000);
    assert!(net.is_alive(A) && net.is_alive(B));
    assert!(worst <= ms(4000), "came up after {worst:?}");
}

/// Bytes that look like a message as far as a stranger can make them.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![Just(148usize), Just(92), Just(64), 32usize..200, 0usize..32];
    (0u8..6, length.prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len))).prop_map(
        |(kind, mut bytes)| {
            if let Some(head) = bytes.get_mut(..4) {
                head.copy_from_slice(&[kind, 0, 0, 0]);
            }
            bytes
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Junk {
        to: usize,
        bytes: Vec<u8>,
        aimed: bool,
    },
    Damaged {
        from: usize,
        at: usize,
        bit: u8,
    },
    Packet {
        at: usize,
        bytes: Vec<u8>,
    },
    /// Any plaintext of a joined peer, past its own core.
    Sealed {
        to: usize,
        bytes: Vec<u8>,
    },
    Wait {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..100);
    prop_oneof![
        (0usize..3, datagram(), any::<bool>()).prop_map(|(to, bytes, aimed)| Step::Junk { to, bytes, aimed }),
        (1usize..3, any::<usize>(), 0u8..8).prop_map(|(from, at, bit)| Step::Damaged { from, at, bit }),
        (0usize..3, bytes()).prop_map(|(at, bytes)| Step::Packet { at, bytes }),
        (0usize..3, bytes()).prop_map(|(to, bytes)| Step::Sealed { to, bytes }),
        (0u64..4000).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No datagram, packet or plaintext panics, the timeout contract holds after each, and nothing is broken after.
    #[test]
    fn any_run_of_inputs_leaves_a_working_hub(steps in proptest::collection::vec(step(), 1..60)) {
        let mut net = Net::up();
        let (_, mut liar) = join_foreign(&mut net, stranger(), None);
        for step in steps {
            match step {
                Step::Junk { to, mut bytes, aimed } => {
                    let index = net.newest(if to == HUB { A } else { HUB }, 4).payload[4..8].to_vec();
                    if let Some(place) = bytes.get_mut(4..8).filter(|_| aimed) { place.copy_from_slice(&index); }
                    net.inject(stranger(), to, &bytes);
                }
                Step::Damaged { from, at, bit } => {
                    let mut bytes = net.newest(from, 4).payload;
                    let at = at % bytes.len();
                    bytes[at] ^= 1 << bit;
                    net.inject(stranger(), HUB, &bytes);
                }
                Step::Packet { at, bytes } => net.ends[at].core.handle_packet(&bytes, net.now),
                Step::Sealed { to, bytes } => {
                    let mut plain = if bytes.len() % 2 == 0 { packet(3, to, &bytes) } else { bytes };
                    if let Some(byte) = plain.get_mut(to) { *byte ^= u8::try_from(to).unwrap(); }
                    let mut out = [0u8; 2048];
                    if let TunnResult::WriteToNetwork(datagram) = liar.encapsulate(&plain, &mut out) {
                        net.inject(stranger(), HUB, datagram);
                    }
                }
                Step::Wait { millis } => net.run(ms(millis)),
            }
            for end in &mut net.ends {
                end.core.handle_timeout(net.now);
                prop_assert!(end.core.poll_timeout().is_none_or(|at| at > net.now));
            }
        }
        net.settle();
        let time = net.time_to_life(A);
        prop_assert!(time <= ms(5000), "took {:?}", time);
        prop_assert_eq!(net.discarded(HUB, Discard::LibraryPanic), 0);
        let sent = packet(A, HUB, b"still here");
        prop_assert_eq!(net.pass(A, HUB, &sent), vec![sent]);
    }
}
