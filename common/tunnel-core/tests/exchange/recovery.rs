//! Everything that has to come back by itself, and how fast.

use std::net::SocketAddr;

use blueprint_common_tunnel_core::{Discard, Event, SoloTunnel};
use boringtun::noise::TunnResult;

use crate::net::{A, B, HUB, Net, address, config, join_foreign, key, ms, packet, peer};

#[test]
fn a_path_cut_for_ten_minutes_is_back_within_three_seconds() {
    let mut net = Net::up();
    let (cut, hub) = (address(A), address(HUB));
    net.path = Box::new(move |from, to, _| from != cut && to != cut || from == to && from == hub);
    net.run(ms(5000));
    assert!(!net.is_alive(A));
    for end in [A, HUB] {
        let lost = Event::EchoLost { peer: key(if end == A { HUB } else { A }) };
        assert_eq!(net.ends[end].events.iter().filter(|event| **event == lost).count(), 1);
    }
    net.run(ms(595_000));
    assert!(net.is_alive(B), "the other spoke is unharmed");
    assert!(!net.ends[B].events.contains(&Event::EchoLost { peer: key(HUB) }));

    net.path = Box::new(|_, _, _| true);
    let time = net.time_to_life(A);
    assert!(time <= ms(3000), "took {time:?}");
    let sent = packet(HUB, A, b"again");
    assert_eq!(net.pass(HUB, A, &sent), [sent]);
}

#[test]
fn a_new_hub_with_the_old_key_is_found_within_five_seconds() {
    let mut net = Net::up();
    net.ends[HUB].core = SoloTunnel::new(config(HUB), net.now);
    for spoke in [A, B] {
        net.ends[HUB].core.upsert_peer(peer(spoke), net.now).unwrap();
    }
    let time = net.time_to_life(A).max(net.time_to_life(B));
    assert!(time <= ms(5000), "took {time:?}");

    net.ends[HUB].core = SoloTunnel::new(config(HUB), net.now);
    net.ends[HUB].core.upsert_peer(peer(A), net.now).unwrap();
    net.run(ms(10));
    assert!(net.ends[A].core.start_handshake(&key(HUB), net.now));
    let time = net.time_to_life(A);
    assert!(time <= ms(1200), "told of it, it took {time:?}");
}

#[test]
fn a_spoke_that_starts_anew_replaces_its_old_self() {
    let mut net = Net::up();
    net.ends[A].core = SoloTunnel::new(config(A), net.now);
    net.ends[A].core.upsert_peer(peer(HUB), net.now).unwrap();
    net.run(ms(100));
    let sent = packet(HUB, A, b"new");
    assert_eq!(net.pass(HUB, A, &sent), [sent]);
    assert!(!net.ends[HUB].events.contains(&Event::EchoLost { peer: key(A) }));
}

#[test]
fn a_spoke_that_moves_is_followed_without_a_handshake() {
    let mut net = Net::up();
    let moved = SocketAddr::from(([198, 51, 100, 7], 4444));
    net.ends[A].address = moved;
    net.run(ms(1500));
    assert_eq!(net.stats(A)[1].endpoint, Some(moved.into()));
    assert_eq!(net.ends[HUB].events, [Event::Roam { peer: key(A), endpoint: moved.into() }]);
    assert!(net.is_alive(A));
}

#[test]
fn a_hub_that_moves_is_found_where_the_driver_says() {
    let mut net = Net::up();
    let moved = SocketAddr::from(([198, 51, 100, 1], 51820));
    net.ends[HUB].address = moved;
    net.run(ms(6000));
    assert!(!net.stats(A)[0].echo.alive || net.stats(A)[0].endpoint == Some(moved.into()));
    assert!(net.ends[A].core.set_endpoint(&key(HUB), moved.into(), net.now));
    let time = net.time_to_life(A);
    assert!(time <= ms(1200), "took {time:?}");
}

/// As boringtun issue 495 tells it: from some moment on, nothing comes back on a session, while new handshakes work.
#[test]
fn a_session_that_goes_deaf_in_one_direction_is_replaced() {
    for deaf in [A, HUB] {
        let mut net = Net::up();
        net.run(ms(15_000));
        let (from, to) = if deaf == A { (HUB, A) } else { (A, HUB) };
        let mut to_it =
            net.seen.iter().rev().filter(|(_, sent)| sent.to.remote == address(to) && sent.payload[0] == 4);
        let old_index = to_it.find(|(source, _)| *source == address(from)).unwrap().1.payload[4..8].to_vec();
        let source = address(from);
        let target = address(to);
        net.path = Box::new(move |from, to, payload| {
            !(from == source && to == target && payload[0] == 4 && payload[4..8] == old_index)
        });
        net.forget();
        net.run(ms(5000));
        assert!(net.ends[A].events.contains(&Event::EchoLost { peer: key(HUB) }), "deaf {deaf}");
        assert!(net.is_alive(A), "deaf {deaf}");
        let sent = packet(HUB, A, b"heard");
        assert_eq!(net.pass(HUB, A, &sent), [sent]);
        net.run(ms(60_000));
        let lost = net.ends[A].events.iter().filter(|event| matches!(event, Event::EchoLost { .. }));
        assert_eq!(lost.count(), 1, "once is enough");
    }
}

#[test]
fn rekeys_lose_no_packet() {
    let mut net = Net::up();
    let before = net.ends[HUB].core.stats().handshakes;
    let mut arrived = 0;
    for _ in 0..3000 {
        arrived += net.pass(A, HUB, &packet(A, HUB, b"tick")).len();
        arrived += net.pass(HUB, A, &packet(HUB, A, b"tock")).len();
        net.run(ms(140));
    }
    assert_eq!(arrived, 6000);
    let rekeys = net.ends[HUB].core.stats().handshakes - before;
    assert!((8..=12).contains(&rekeys), "two spokes for ten minutes made {rekeys}");
    assert!(
        net.ends.iter().all(|end| end.events.iter().all(|event| matches!(event, Event::Handshake { .. })))
    );
}

#[test]
fn a_lossy_reordering_path_carries_on() {
    let mut seeds_with_lost_echoes = 0;
    for seed in 0..8u64 {
        let mut net = Net::up();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut drawn = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        net.path = Box::new(move |_, _, _| drawn() % 10 != 0);
        let mut arrived = 0;
        for round in 0..500u64 {
            net.delay = ms(5 + (round * 37 + seed) % 50);
            net.ends[A].core.handle_packet(&packet(A, HUB, &round.to_be_bytes()), net.now);
            net.run(ms(20));
        }
        arrived += net.ends[HUB].packets.len();
        assert!((400..=500).contains(&arrived), "seed {seed}: {arrived} of 500");
        net.path = Box::new(|_, _, _| true);
        assert!(net.time_to_life(A) <= ms(3000), "seed {seed}");
        seeds_with_lost_echoes += u32::from(net.stats(A)[0].echo.loss_percent > 0.0);
    }
    // Ten echoes a seed, each with a fifth of a chance to be lost on the way there or back.
    assert!(seeds_with_lost_echoes >= 4, "{seeds_with_lost_echoes} of 8");
}

#[test]
fn a_plain_wireguard_peer_is_served_and_lives_by_its_traffic() {
    let mut net = Net::up();
    let home = SocketAddr::from(([203, 0, 113, 5], 999));
    let (foreign_key, mut tunn) = join_foreign(&mut net, home, None);
    let mut out = [0u8; 2048];
    let TunnResult::WriteToNetwork(datagram) = tunn.encapsulate(&packet(3, HUB, b"plain"), &mut out) else {
        panic!("no data");
    };
    net.inject(home, HUB, datagram);
    assert_eq!(net.ends[HUB].packets, [packet(3, HUB, b"plain")]);

    let alive = |net: &Net| net.ends[HUB].core.peer_stats(&foreign_key).unwrap().echo.alive;
    assert!(!alive(&net), "it might still be one of ours");
    net.run(ms(4000));
    assert!(alive(&net));
    net.run(ms(180_000));
    assert!(!alive(&net));
    assert_eq!(net.discarded(HUB, Discard::LibraryPanic), 0);
}
