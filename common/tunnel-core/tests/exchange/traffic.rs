//! Packets that should arrive, and those that should not.

use blueprint_common_tunnel_core::{
    Config, Discard, Event, OverlayPrefixes, PeerError, Policy, Protocol, Rule, SoloTunnel,
};

use crate::net::{A, B, HUB, MTU, Net, address, config, key, lease, ms, packet, packet_v6, peer};

#[test]
fn spokes_come_up_by_themselves_in_three_round_trips() {
    let mut net = Net::new();
    let time = net.time_to_life(A);
    assert!(time <= ms(80), "took {time:?}");
    net.run(ms(1000));
    let hub_events = &net.ends[HUB].events;
    for event in [Event::Handshake { peer: key(A) }, Event::EchoBack { peer: key(A) }] {
        assert_eq!(hub_events.iter().filter(|seen| **seen == event).count(), 1, "{event:?}");
        assert!(hub_events.contains(&event), "{event:?}");
    }
    assert_eq!(net.ends[A].events, [Event::Handshake { peer: key(HUB) }, Event::EchoBack { peer: key(HUB) }]);
}

#[test]
fn packets_pass_whole_in_both_directions_and_both_families() {
    let mut net = Net::up();
    for len in [0, 1, 3, 4, 500, usize::from(MTU) - 28] {
        let payload = vec![7u8; len];
        for (from, to) in [(A, HUB), (HUB, B)] {
            let sent = packet(from, to, &payload);
            assert_eq!(net.pass(from, to, &sent), [sent]);
            let sent = packet_v6(from, to, &payload[..len.min(usize::from(MTU) - 48)]);
            assert_eq!(net.pass(from, to, &sent), [sent]);
        }
    }
    let sent = packet(A, HUB, &vec![0; usize::from(MTU) - 27]);
    assert!(net.pass(A, HUB, &sent).is_empty());
    assert_eq!(net.discarded(A, Discard::TooBig), 1);
}

#[test]
fn w9_data_messages_are_padded_to_sixteen_but_not_past_the_mtu() {
    let mut net = Net::up();
    net.seen.clear();
    net.pass(A, HUB, &packet(A, HUB, &[1; 5]));
    net.pass(A, HUB, &packet(A, HUB, &vec![1; usize::from(MTU) - 28]));
    let mut lengths =
        net.seen.iter().filter(|(_, sent)| sent.payload[0] == 4).map(|(_, sent)| sent.payload.len() - 32);
    assert!(lengths.clone().any(|len| len == 48));
    assert!(lengths.all(|len| len % 16 == 0 || len == usize::from(MTU)));
}

#[test]
fn packets_before_the_handshake_wait_for_it() {
    let mut net = Net::new();
    let sent: Vec<_> = (0..5).map(|number| packet(A, HUB, &[number])).collect();
    for packet in &sent {
        net.ends[A].core.handle_packet(packet, net.now);
    }
    net.run(ms(100));
    assert_eq!(net.ends[HUB].packets, sent);

    let now = net.now;
    for number in 0..30 {
        net.ends[HUB].core.remove_peer(&key(B));
        net.ends[B].core.handle_packet(&packet(B, HUB, &[number]), now);
    }
    assert_eq!(net.discarded(B, Discard::PendingFull), 0, "the session still stands");
    net.run(ms(200_000));
    for number in 0..30 {
        net.ends[B].core.handle_packet(&packet(B, HUB, &[number]), net.now);
    }
    assert_eq!(net.discarded(B, Discard::PendingFull), 14, "sixteen wait at most");
    for number in 0..200 {
        net.ends[B].core.handle_packet(&packet(B, HUB, &[number]), net.now);
    }
    assert_eq!(net.discarded(B, Discard::PeerErrandBudget), 130, "the core takes a hundred a second");
}

#[test]
fn two_spokes_meet_only_where_the_policy_says_so() {
    let mut net = Net::up();
    let sent = packet(A, B, b"hello");
    assert!(net.pass(A, B, &sent).is_empty());
    assert_eq!(net.discarded(HUB, Discard::Denied), 1);

    let mut policy = Policy::deny_all();
    policy.allow(key(A), key(B), Rule::ANY);
    net.ends[HUB].core.set_policy(policy);
    let came = net.pass(A, B, &sent);
    assert_eq!(came.len(), 1);
    assert_eq!((came[0][8], &came[0][12..]), (63, &sent[12..]), "one hop was taken");
    assert_eq!(net.pass(A, B, &packet_v6(A, B, b"hello"))[0][7], 63);
    assert!(net.pass(B, A, &packet(B, A, b"back")).is_empty(), "one direction only");

    let mut last_hop = packet(A, B, b"");
    last_hop[8] = 1;
    last_hop[10] += 63;
    assert!(net.pass(A, B, &last_hop).is_empty());
    assert_eq!(net.discarded(HUB, Discard::HopLimit), 1);
}

#[test]
fn a_spoke_begins_with_the_hub_itself_only_what_it_may_and_answers_what_the_hub_began() {
    let mut net = Net::up();
    let own_rules = Some(vec![Rule { protocol: Protocol::Udp, ports: 9..=9 }]);
    net.ends[HUB].core = SoloTunnel::new(Config { own_rules, ..config(HUB) }, net.now);
    net.ends[HUB].core.upsert_peer(peer(A), net.now).unwrap();
    net.run(ms(10_000));
    assert!(net.is_alive(A), "echoes are the tunnel's own");

    let udp = |from, to, ports: (u8, u8)| {
        let mut packet = packet(from, to, b"hello");
        packet[20..24].copy_from_slice(&[0, ports.0, 0, ports.1]);
        packet
    };
    let tcp = |ports: (u8, u8), flags: u8| {
        let mut packet = packet(A, HUB, &[0; 12]);
        packet[20..24].copy_from_slice(&[0, ports.0, 0, ports.1]);
        packet[32..34].copy_from_slice(&[0x50, flags]);
        (packet[9], packet[11]) = (6, packet[11] + 11);
        packet
    };
    assert_eq!(net.pass(A, HUB, &udp(A, HUB, (7, 9))).len(), 1);
    assert!(net.pass(A, HUB, &udp(A, HUB, (5, 7))).is_empty());
    assert!(net.pass(A, HUB, &tcp((5, 22), 0x02)).is_empty(), "a connection");
    assert!(net.pass(A, HUB, &tcp((5, 22), 0x06)).is_empty(), "nor in disguise");
    assert_eq!(net.discarded(HUB, Discard::Denied), 3);
    assert_eq!(net.pass(A, HUB, &tcp((80, 5), 0x04)).len(), 1, "a reset opens nothing");
    assert_eq!(net.pass(A, HUB, &tcp((80, 5), 0x12)).len(), 1, "the answer to one of the hub's");

    assert_eq!(net.pass(HUB, A, &udp(HUB, A, (7, 5))).len(), 1);
    assert_eq!(net.pass(A, HUB, &udp(A, HUB, (5, 7))).len(), 1, "the answer");
    net.run(ms(200_000));
    assert!(net.pass(A, HUB, &udp(A, HUB, (5, 7))).is_empty(), "too late");
}

#[test]
fn w1_a_spoke_cannot_speak_for_another() {
    let mut net = Net::up();
    net.pass(A, HUB, &packet(B, HUB, b"as B"));
    assert_eq!(net.discarded(A, Discard::ForeignSource), 1, "an honest spoke does not even send it");

    let liar = SoloTunnel::new(Config { addresses: lease(B), ..config(A) }, net.now);
    net.ends[A].core = liar;
    net.ends[A].core.upsert_peer(peer(HUB), net.now).unwrap();
    net.run(ms(500));
    assert!(net.pass(A, HUB, &packet(B, HUB, b"as B")).is_empty());
    assert!(net.discarded(HUB, Discard::SpoofedSource) >= 1);
}

#[test]
fn a_stranger_in_the_tunnel_can_ping_the_hub() {
    let mut net = Net::up();
    let mut request = packet(A, HUB, b"");
    request[9] = 1;
    request[10..12].copy_from_slice(&[0, 0]);
    request[20..].copy_from_slice(&[8, 0, 0xf7, 0xf8, 0, 7, 0, 0]);
    let sum: u32 =
        request[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    request[10..12].copy_from_slice(&sum.to_be_bytes());
    let came = net.pass(A, A, &request);
    assert_eq!(came.len(), 1, "the answer is for the local stack, since the core did not ask");
    assert_eq!(came[0][20..], [0, 0, 0xff, 0xf8, 0, 7, 0, 0]);
}

#[test]
fn prefixes_have_one_holder_and_keys_must_be_sound() {
    let mut net = Net::up();
    let now = net.now;
    let hub = &mut net.ends[HUB].core;
    let mut thief = peer(B);
    thief.allowed_ips = peer(A).allowed_ips;
    let prefix = thief.allowed_ips[0];
    assert_eq!(hub.upsert_peer(thief, now), Err(PeerError::PrefixTaken { prefix, holder: key(A) }));
    assert_eq!(hub.upsert_peer(peer(HUB), now), Err(PeerError::OwnKey(key(HUB))));
    let mut weak = peer(3);
    weak.public_key = blueprint_common_types::WgPublicKey::from_bytes([0; 32]);
    assert_eq!(hub.upsert_peer(weak.clone(), now), Err(PeerError::WeakKey(weak.public_key)));
    assert_eq!(hub.peers().count(), 2);

    assert!(hub.remove_peer(&key(A)) && !hub.remove_peer(&key(A)));
    let mut heir = peer(B);
    heir.allowed_ips.extend(peer(A).allowed_ips);
    assert_eq!(hub.upsert_peer(heir, now), Ok(()));
    assert_eq!(net.pass(HUB, B, &packet(HUB, B, b"sessions go on")).len(), 1);
}

#[test]
fn the_hub_has_the_first_address() {
    let OverlayPrefixes { v4, v6 } = config(HUB).prefixes;
    assert_eq!(OverlayPrefixes { v4, v6 }.hub(), lease(HUB));
}

#[test]
fn a_packet_too_large_for_the_other_spoke_is_answered_with_its_mtu() {
    let mut net = Net::up();
    let mut policy = Policy::deny_all();
    policy.allow(key(A), key(B), Rule::ANY);
    net.ends[HUB].core.set_policy(policy);
    // What goes to or comes from B with more than 1400 bytes inside is lost.
    let limit = 1400 + 32;
    net.path = Box::new(move |from, to, datagram| {
        (from != address(B) && to != address(B)) || datagram.len() <= limit
    });
    // B notices when it sends large packets itself.
    for _ in 0..60 {
        net.ends[B].core.handle_packet(&packet(B, HUB, &[0; 1380]), net.now);
        net.run(ms(100));
    }
    let mtu = usize::from(net.stats(B)[1].mtu);
    assert_eq!(mtu, 1400, "what the hub knows");

    assert!(net.pass(A, B, &packet(A, B, &[0; 1380])).is_empty());
    assert_eq!(net.discarded(HUB, Discard::TooBig), 1);
    let answers = std::mem::take(&mut net.ends[A].packets);
    let [answer] = answers.as_slice() else { panic!("one answer: {answers:?}") };
    assert_eq!((answer[20], answer[21]), (3, 4), "fragmentation needed");
    assert_eq!(usize::from(u16::from_be_bytes([answer[26], answer[27]])), mtu);
    // Nobody is kept busy with telling it again.
    for _ in 0..1000 {
        net.ends[A].core.handle_packet(&packet(A, B, &[0; 1380]), net.now);
    }
    net.run(ms(100));
    assert_eq!(net.discarded(HUB, Discard::TooBig), 1001);
    assert!((50..=100).contains(&net.ends[A].packets.len()), "{} answers", net.ends[A].packets.len());
    // A pads it to 1408, which B's way does not take.
    let fits = packet(A, B, &vec![0; mtu - 28]);
    assert_eq!(net.pass(A, B, &fits).len(), 1);
}
