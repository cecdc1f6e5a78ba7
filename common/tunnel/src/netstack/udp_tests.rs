use std::net::SocketAddr;
use std::time::Duration;

use super::tests::{Sim, lease, ready};
use super::*;
use crate::error::UdpError;

fn at(last: u8, port: u16, is_v4: bool) -> SocketAddr {
    let OverlayLease { v4, v6 } = lease(last);
    SocketAddr::new(if is_v4 { v4.into() } else { v6.into() }, port)
}

#[test]
fn datagrams_cross_in_both_versions_and_keep_their_bounds() {
    let mut sim = Sim::new(64);
    let bound = sim.spoke.listen_udp(53).unwrap();
    for is_v4 in [true, false] {
        let flow = sim.hub.connect_udp(at(2, 53, is_v4), sim.now).unwrap();
        let max = if is_v4 { 1392 } else { 1372 };
        let mut room = [0; 2048];
        for length in [0, 1, 2, 3, 500, max] {
            let data: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0]).collect();
            ready(flow.send(&data)).unwrap().unwrap();
            sim.settle();
            let (count, from) = ready(bound.recv_from(&mut room)).unwrap().unwrap();
            assert_eq!((&room[..count], from), (&data[..], flow.local_addr()));
            ready(bound.send_to(&data, from)).unwrap().unwrap();
            sim.settle();
            assert_eq!(ready(flow.recv(&mut room)).unwrap().unwrap(), length);
        }
        let too_long = ready(flow.send(&vec![0; max + 1])).unwrap();
        assert_eq!(too_long, Err(UdpError::TooLong { bytes: max + 1, max }));
        assert!(ready(flow.recv(&mut room)).is_none());
    }
}

#[test]
fn a_port_that_nobody_opened_is_reported_to_the_sender_and_only_so_often() {
    let mut sim = Sim::new(64);
    for is_v4 in [true, false] {
        let flow = sim.hub.connect_udp(at(2, 9, is_v4), sim.now).unwrap();
        ready(flow.send(b"anybody?")).unwrap().unwrap();
        sim.settle();
        let mut room = [0; 16];
        assert_eq!(ready(flow.recv(&mut room)).unwrap(), Err(UdpError::Refused));
        assert!(ready(flow.recv(&mut room)).is_none());
        for _ in 0..100 {
            ready(flow.send(b"anybody?")).unwrap().unwrap();
        }
        sim.settle();
        sim.advance(Duration::from_secs(1));
    }
    let refusals = sim.spoke.refusals();
    assert_eq!((refusals.no_udp_port, refusals.icmp_limited), (202, 102));
}

#[test]
fn a_full_queue_drops_what_comes_and_holds_back_who_sends() {
    let mut sim = Sim::new(64);
    let bound = sim.spoke.listen_udp(53).unwrap();
    let flow = sim.hub.connect_udp(at(2, 53, true), sim.now).unwrap();
    let mut sent = 0;
    while ready(flow.send(&[7; 100])).is_some() {
        sent += 1;
    }
    assert_eq!(sent, 1024);
    sim.settle();
    for _ in 0..10 {
        ready(flow.send(&[8; 100])).unwrap().unwrap();
    }
    sim.settle();
    assert_eq!((bound.dropped(), sim.spoke.refusals().udp_queue_full), (10, 10));
    let mut room = [0; 16];
    for _ in 0..1024 {
        // What does not fit is cut off.
        assert_eq!(ready(bound.recv_from(&mut room)).unwrap().unwrap().0, 16);
    }
    assert!(ready(bound.recv_from(&mut room)).is_none());
}

#[test]
fn ports_open_once_and_again_after_their_socket_is_gone() {
    let mut sim = Sim::new(2);
    let bound = sim.spoke.listen_udp(53).unwrap();
    assert_eq!(sim.spoke.listen_udp(53).unwrap_err(), ListenError::InUse { port: 53 });
    assert_eq!(sim.spoke.listen_udp(0).unwrap_err(), ListenError::Zero);
    let other = sim.spoke.connect_udp(at(1, 53, true), sim.now).unwrap();
    assert_eq!(sim.spoke.listen_udp(54).unwrap_err(), ListenError::Full);
    assert_eq!(sim.spoke.connect_udp(at(2, 53, true), sim.now).unwrap_err(), ConnectError::NoRoute);
    drop((bound, other));
    sim.settle();
    let bound = sim.spoke.listen_udp(53).unwrap();
    assert_eq!(ready(bound.send_to(b"x", at(2, 1, true))).unwrap(), Err(UdpError::NoRoute));
    drop(sim);
    assert_eq!(ready(bound.recv_from(&mut [0; 1])).unwrap(), Err(UdpError::Stopped));
}

#[test]
fn damaged_and_forged_packets_reach_no_socket() {
    let mut sim = Sim::new(64);
    let bound = sim.spoke.listen_udp(53).unwrap();
    let mut packet = vec![0; 20 + 8 + 5];
    let addresses = (lease(1).v4.into(), lease(2).v4.into());
    let write =
        |packet: &mut [u8]| build::write_udp(packet, (addresses.0, 9), (addresses.1, 53), [b"he", b"llo"]);
    let mut nowhere = Copying::new(|_: &[u8]| ());
    for position in 0..packet.len() {
        write(&mut packet);
        packet[position] ^= 0x10;
        sim.spoke.handle_batch([packet.as_mut_slice()], sim.now, &mut nowhere);
    }
    let mut room = [0; 16];
    assert!(ready(bound.recv_from(&mut room)).is_none());
    write(&mut packet);
    sim.spoke.handle_batch([packet.as_mut_slice()], sim.now, &mut nowhere);
    assert_eq!(ready(bound.recv_from(&mut room)).unwrap().unwrap().0, 5);
    let refusals = sim.spoke.refusals();
    assert_eq!(usize::try_from(refusals.bad_checksum + refusals.unreadable).unwrap(), packet.len());

    // A spoke does not end what another one has with us.
    let flow = sim.spoke.connect_udp(at(1, 9, true), sim.now).unwrap();
    let mut sent = vec![0; 28];
    let remote = flow.peer_addr();
    let local = flow.local_addr();
    build::write_udp(&mut sent, (local.ip(), local.port()), (remote.ip(), remote.port()), [&[], &[]]);
    for (from, is_believed) in [(lease(3).v4, false), (lease(1).v4, true)] {
        let mut error = vec![0; 20 + 8 + sent.len()];
        build::write_unreachable(&mut error, from.into(), lease(2).v4.into(), &sent);
        sim.spoke.handle_batch([error.as_mut_slice()], sim.now, &mut nowhere);
        assert_eq!(ready(flow.recv(&mut room)).is_some(), is_believed);
    }
}
