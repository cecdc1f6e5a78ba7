//! A hub of many spokes hears less often from those that idle, and no later of those that do not.

use std::time::Duration;

use blueprint_common_tunnel_core::{Event, PeerConfig};
use blueprint_common_types::WgPublicKey;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::net::{A, B, HUB, Net, address, key, ms, packet};

/// Peers that the hub knows beside the two that are there: a pace of five seconds.
const OTHERS: u32 = 2500;

/// A hub that knows so many, with two spokes that have idled for a while.
fn crowded() -> Net {
    let mut net = Net::up();
    for number in 0..OTHERS {
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let public_key = WgPublicKey::from_bytes(PublicKey::from(&StaticSecret::from(secret)).to_bytes());
        let allowed_ips = vec![std::net::IpAddr::from((0x0a07_1000 + number).to_be_bytes()).into()];
        let other =
            PeerConfig { public_key, allowed_ips, endpoint: None, preshared_key: None, keepalive: None };
        net.ends[HUB].core.upsert_peer(other, net.now).unwrap();
    }
    net.run(ms(20_000));
    net.forget();
    net
}

fn datagrams_of(net: &mut Net, end: usize, time: Duration) -> usize {
    net.seen.clear();
    net.run(time);
    net.seen.iter().filter(|(from, _)| *from == address(end)).count()
}

fn cut(net: &mut Net, end: usize) {
    let cut = address(end);
    net.path = Box::new(move |from, to, _| from != cut && to != cut);
}

/// How long until an end calls the other lost; at most a minute.
fn time_to_loss(net: &mut Net, end: usize, other: usize) -> Duration {
    let (start, lost) = (net.now, Event::EchoLost { peer: key(other) });
    while !net.ends[end].events.contains(&lost) && net.now < start + ms(60_000) {
        net.run(ms(10));
    }
    net.now - start
}

#[test]
fn an_idle_spoke_of_a_crowded_hub_keeps_the_pace_and_stays_alive() {
    let mut net = crowded();
    let idle = datagrams_of(&mut net, A, ms(60_000));
    assert!((11..=14).contains(&idle), "an echo every five seconds: {idle}");
    net.run(ms(300_000));
    assert!(net.is_alive(A) && net.is_alive(B));
    let quiet = |event: &Event| matches!(event, Event::Handshake { .. });
    assert!(net.ends.iter().all(|end| end.events.iter().all(quiet)), "nothing but rekeys");
}

#[test]
fn a_spoke_in_use_learns_of_a_dead_path_within_three_seconds_at_any_pace() {
    let mut net = crowded();
    for idle in [0, 1700, 2600, 4900] {
        net.run(ms(20_000 + idle));
        net.forget();
        cut(&mut net, A);
        net.ends[A].core.handle_packet(&packet(A, HUB, b"anybody?"), net.now);
        let time = time_to_loss(&mut net, A, HUB);
        assert!(time <= ms(3000), "took {time:?} after {idle} ms");
        net.path = Box::new(|_, _, _| true);
        let time = net.time_to_life(A);
        assert!(time <= ms(3000), "back after {time:?}");
    }
}

#[test]
fn a_path_that_nobody_uses_is_lost_within_the_pace_and_four_seconds() {
    let mut net = crowded();
    cut(&mut net, A);
    let time = time_to_loss(&mut net, A, HUB).max(time_to_loss(&mut net, HUB, A));
    assert!(ms(3000) < time && time <= ms(9100), "took {time:?}");
    assert!(net.is_alive(B));
}

#[test]
fn a_hub_does_not_dial_a_spoke_that_fell_silent_while_idle() {
    let mut net = Net::up();
    net.run(ms(10_000));
    cut(&mut net, A);
    net.seen.clear();
    net.run(ms(60_000));
    let to_it = |(from, sent): &&(_, blueprint_common_tunnel_core::Transmit)| {
        *from == address(HUB) && sent.to.remote == address(A)
    };
    assert_eq!(net.seen.iter().filter(to_it).count(), 0);
}

#[test]
fn traffic_of_either_side_brings_the_echoes_of_every_second_back() {
    let mut net = crowded();
    for (from, to) in [(A, HUB), (HUB, A)] {
        let mut count = 0;
        for _ in 0..30 {
            net.pass(from, to, &packet(from, to, b"data"));
            count += datagrams_of(&mut net, HUB, ms(970));
        }
        assert!(count >= 25, "{count} answers in thirty seconds");
    }
    net.run(ms(10_000));
    let idle = datagrams_of(&mut net, A, ms(60_000));
    assert!((11..=20).contains(&idle), "and the pace again after that: {idle}");
}

#[test]
fn a_crowded_hub_that_idles_wakes_in_steps_and_never_between() {
    let mut net = crowded();
    // When the core was made: a second until it is up, and twenty.
    let (made, until) = (net.now - ms(21_000), net.now + ms(300_000));
    let mut wakes = 0;
    while net.now < until {
        let at = net.ends[HUB].core.poll_timeout().unwrap();
        wakes += u64::from(!(at - made).as_nanos().is_multiple_of(ms(50).as_nanos()));
        net.run(at - net.now);
    }
    assert_eq!(wakes, 0, "wakes between two steps in 300 s");
}
