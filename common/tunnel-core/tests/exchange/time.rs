//! Deadlines: kept, and not too many.

use std::net::SocketAddr;

use blueprint_common_tunnel_core::{Event, PeerConfig, SoloTunnel};

use crate::net::{A, B, HUB, Net, config, join_foreign, key, ms, packet, peer};

/// Wakes a core as often as it asks for, without a network.
fn wakes(core: &mut SoloTunnel, start: std::time::Instant, seconds: u64) -> u64 {
    let (mut count, until) = (0, start + ms(seconds * 1000));
    while let Some(at) = core.poll_timeout().filter(|at| *at < until) {
        core.handle_timeout(at);
        while core.poll_transmit().is_some() {}
        assert!(core.poll_timeout().is_none_or(|next| next > at));
        count += 1;
    }
    count
}

#[test]
fn a_core_without_peers_never_asks_to_be_woken() {
    let net = Net::new();
    let mut core = SoloTunnel::new(config(HUB), net.now);
    assert_eq!(core.poll_timeout(), None);
    core.upsert_peer(peer(A), net.now).unwrap();
    assert!(core.poll_timeout().is_some());
    core.remove_peer(&key(A));
    assert_eq!(core.poll_timeout(), None);
}

#[test]
fn an_idle_peer_costs_a_wake_in_ten_seconds_and_a_lost_hub_a_few_a_second() {
    let start = Net::new().now;
    let mut hub = SoloTunnel::new(config(HUB), start);
    hub.upsert_peer(peer(A), start).unwrap();
    assert!(wakes(&mut hub, start, 600) <= 67);
    let mut spoke = SoloTunnel::new(config(A), start);
    spoke.upsert_peer(peer(HUB), start).unwrap();
    assert!(wakes(&mut spoke, start, 600) <= 600 * 5);
}

#[test]
fn a_spoke_never_gives_up_and_a_hub_does() {
    let start = Net::new().now;
    let mut spoke = SoloTunnel::new(config(A), start);
    spoke.upsert_peer(peer(HUB), start).unwrap();
    wakes(&mut spoke, start, 3600);
    let sent = spoke.stats().tx_datagrams;
    assert!((1800..=3600).contains(&sent), "an initiation every 1 to 2 s for an hour: {sent}");

    let mut hub = SoloTunnel::new(config(HUB), start);
    let endpoint = Some(SocketAddr::from(([192, 0, 2, 9], 9)).into());
    hub.upsert_peer(PeerConfig { endpoint, ..peer(A) }, start).unwrap();
    hub.handle_packet(&packet(HUB, A, b"anybody?"), start);
    wakes(&mut hub, start, 3600);
    let sent = hub.stats().tx_datagrams;
    assert!((16..=19).contains(&sent), "every 5 s for 90 s: {sent}");
}

#[test]
fn w7_retries_and_rekeys_are_spread() {
    let start = Net::new().now;
    let mut spoke = SoloTunnel::new(config(A), start);
    spoke.upsert_peer(peer(HUB), start).unwrap();
    let mut tries = Vec::new();
    while let Some(at) = spoke.poll_timeout().filter(|at| *at < start + ms(60_000)) {
        spoke.handle_timeout(at);
        let sent = std::iter::from_fn(|| spoke.poll_transmit()).filter(|sent| sent.payload[0] == 1);
        tries.extend(sent.map(|_| at));
    }
    let mut pauses: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!(pauses.iter().all(|pause| (1000..=2000).contains(pause)), "{pauses:?}");
    pauses.sort_unstable();
    pauses.dedup();
    assert!(pauses.len() > 20, "{pauses:?}");

    let mut net = Net::up();
    net.forget();
    let mut rekeys = [None, None];
    for step in 0..2500u64 {
        net.run(ms(50));
        for (rekey, spoke) in rekeys.iter_mut().zip([A, B]) {
            if net.ends[spoke].events.iter().any(|event| matches!(event, Event::Handshake { .. })) {
                rekey.get_or_insert(step * 50);
            }
        }
    }
    let [Some(first), Some(second)] = rekeys else { panic!("no rekey: {rekeys:?}") };
    assert!(first.abs_diff(second) >= 100, "at the same time: {rekeys:?}");
    assert!([first, second].iter().all(|at| (113_000..=121_000).contains(at)), "{rekeys:?}");
}

#[test]
fn a_session_is_refused_after_three_minutes_of_the_time_told() {
    let mut net = Net::up();
    let old = net.newest(A, 4);
    net.path = Box::new(|_, _, _| false);
    net.run(ms(181_000));
    let late = net.newest(A, 1);
    net.inject(net.ends[A].address, HUB, &old.payload);
    let expired = blueprint_common_tunnel_core::Discard::ExpiredSession;
    assert_eq!(net.discarded(HUB, expired), 1);
    assert_eq!(late.payload.len(), 148);
}

#[test]
fn keepalives_of_a_peer_that_wants_them_are_sent() {
    let mut net = Net::up();
    let home = SocketAddr::from(([203, 0, 113, 5], 999));
    join_foreign(&mut net, home, Some(ms(5000)));
    net.seen.clear();
    net.run(ms(60_000));
    let count =
        net.seen.iter().filter(|(_, sent)| sent.to.remote == home && sent.payload.len() == 32).count();
    assert!((10..=12).contains(&count), "{count}");
}

#[test]
fn time_that_goes_back_counts_as_the_latest_seen() {
    let mut net = Net::up();
    let before = net.now;
    net.run(ms(10_000));
    net.ends[HUB].core.handle_timeout(before);
    net.ends[HUB].core.handle_packet(&packet(HUB, A, b""), before);
    assert!(net.ends[HUB].core.poll_timeout().unwrap() >= net.now);
    net.run(ms(1000));
    assert!(net.is_alive(A));
}
