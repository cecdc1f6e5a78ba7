//! Real sockets on loopback.

use std::time::Instant;

use super::*;

/// A byte pattern that differs between positions and datagrams.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

fn bind(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address.parse().unwrap(), false).unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

/// Takes `count` datagrams, with what came along with each.
fn take(socket: &UdpSocket, count: usize) -> Vec<(Vec<u8>, Received)> {
    let mut buffer = vec![0; 65_536];
    let mut taken = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while taken.len() < count && Instant::now() < deadline {
        match socket.receive(&mut buffer, false).unwrap() {
            Some(received) => {
                let datagrams = buffer[..received.len].chunks(received.stride);
                taken.extend(datagrams.map(|datagram| (datagram.to_vec(), received)));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    taken
}

/// Sends a run and checks that it arrives as it was sent.
fn carry(from: &UdpSocket, to: &UdpSocket, at: SocketAddr, total: usize, segment: usize) -> Vec<Received> {
    let sent = pattern(total);
    assert_eq!(from.send(&sent, segment, at, None, true).unwrap(), 0, "{total} / {segment}");
    let (datagrams, received): (Vec<_>, Vec<_>) = take(to, total.div_ceil(segment)).into_iter().unzip();
    let expected: Vec<&[u8]> = sent.chunks(segment).collect();
    assert_eq!(datagrams, expected, "{total} / {segment}");
    received
}

#[test]
fn runs_of_many_shapes_arrive_as_they_were_sent() {
    let shapes = [
        (1, 1),
        (1452, 1452),
        (1453, 1452),
        (65_507, 1452),
        (65_400, 65_400),
        (64 * 100, 100),
        (65 * 100, 100),
        (300 * 32 + 7, 32),
        (200_000, 1452),
        (130_000, 40_000),
    ];
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let ((from, source), (to, at)) = (bind(address), bind(address));
        for (total, segment) in shapes {
            for received in carry(&from, &to, at, total, segment) {
                assert_eq!(received.remote, source);
                assert_eq!(received.local, Some(at.ip()));
            }
        }
        assert!(from.has_bundles());
    }
}

#[test]
fn a_run_crosses_in_one_call() {
    let ((from, _), (to, at)) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let received = carry(&from, &to, at, 40 * 1000 + 10, 1000);
    assert_eq!(received[0].stride, 1000);
    assert_eq!(received[0].len, 40_010);
}

#[test]
fn an_unspecified_ipv6_socket_speaks_ipv4_too() {
    let (both, at) = bind("[::]:0");
    let (v4, v4_at) = bind("127.0.0.1:0");
    let target = SocketAddr::new("127.0.0.5".parse().unwrap(), at.port());
    let received = carry(&v4, &both, target, 5000, 1000);
    assert_eq!(received[0].remote, v4_at);
    assert_eq!(received[0].local, Some(target.ip()));
    // The answer leaves from the address that was asked.
    let sent = pattern(3000);
    assert_eq!(both.send(&sent, 1000, v4_at, received[0].local, true).unwrap(), 0);
    let answers = take(&v4, 3);
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|(_, received)| received.remote == target));
    let (v6, v6_at) = bind("[::1]:0");
    let target = SocketAddr::new("::1".parse().unwrap(), at.port());
    assert_eq!(carry(&v6, &both, target, 2000, 1000)[0].remote, v6_at);
}

#[test]
fn the_source_address_is_the_one_asked_for_while_it_is_ours() {
    let (from, source) = bind("0.0.0.0:0");
    let (to, at) = bind("127.0.0.1:0");
    for (wanted, seen) in [
        (Some("127.0.0.2"), "127.0.0.2"),
        (None, "127.0.0.1"),
        (Some("203.0.113.7"), "127.0.0.1"),
        (Some("::1"), "127.0.0.1"),
    ] {
        let wanted = wanted.map(|address| address.parse().unwrap());
        assert_eq!(from.send(&pattern(3000), 1000, at, wanted, true).unwrap(), 0);
        let seen = SocketAddr::new(seen.parse().unwrap(), source.port());
        let datagrams = take(&to, 3);
        assert_eq!(datagrams.len(), 3, "{wanted:?}");
        assert!(datagrams.iter().all(|(_, received)| received.remote == seen), "{wanted:?}");
    }
    assert!(from.has_bundles());

    let (from, source) = bind("[::]:0");
    let (to, at) = bind("[::1]:0");
    let gone = Some("2001:db8::7".parse().unwrap());
    assert_eq!(from.send(&pattern(3000), 1000, at, gone, true).unwrap(), 0);
    let seen = SocketAddr::new("::1".parse().unwrap(), source.port());
    assert!(take(&to, 3).iter().all(|(_, received)| received.remote == seen));
}

#[test]
fn a_kernel_that_refuses_runs_gets_datagrams_and_in_the_end_is_not_asked_any_more() {
    let ((from, _), (to, at)) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    // Linux does not segment for a socket without checksums.
    set_option(&from, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    carry(&from, &to, at, 10 * 1000 + 1, 1000);
    assert_eq!(from.refusals.load(Ordering::Relaxed), 1);
    // A success in between starts the count again.
    set_option(&from, libc::SOL_SOCKET, libc::SO_NO_CHECK, 0).unwrap();
    carry(&from, &to, at, 3000, 1000);
    assert_eq!(from.refusals.load(Ordering::Relaxed), 0);
    set_option(&from, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    for _ in 0..REFUSALS_MAX {
        assert!(from.has_bundles());
        carry(&from, &to, at, 3000, 1000);
    }
    assert!(!from.has_bundles());
    set_option(&from, libc::SOL_SOCKET, libc::SO_NO_CHECK, 0).unwrap();
    carry(&from, &to, at, 70_000, 1000);
    assert!(!from.has_bundles());
}

#[test]
fn what_the_network_refuses_is_dropped_and_counted() {
    let (from, at) = bind("127.0.0.1:0");
    let v6 = "[::1]:9".parse().unwrap();
    assert_eq!(from.send(&pattern(2500), 1000, v6, None, true).unwrap(), 3);
    let too_long = pattern(65_530);
    assert_eq!(from.send(&too_long, too_long.len(), at, None, true).unwrap(), 1);
    assert_eq!(from.send(&pattern(10), 10, "0.0.0.0:0".parse().unwrap(), None, false).unwrap(), 1);
    assert_eq!(from.send(&[], 10, at, None, false).unwrap(), 0);
    assert_eq!(from.send(&[1], 0, at, None, false).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(from.refusals.load(Ordering::Relaxed), 0);
}

#[test]
fn a_receive_call_waits_for_a_datagram_or_for_another_thread() {
    let (socket, at) = bind("127.0.0.1:0");
    assert_eq!(socket.receive(&mut [0; 100], false).unwrap(), None);
    let (ready, entered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _entered = socket.enter();
            ready.send(()).unwrap();
            let lens = std::iter::from_fn(|| socket.receive(&mut [0; 100], true).unwrap());
            lens.map(|received| received.len).collect::<Vec<_>>()
        });
        entered.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let other = bind("127.0.0.1:0").0;
        assert_eq!(other.send(&pattern(70), 70, at, None, true).unwrap(), 0);
        std::thread::sleep(Duration::from_millis(50));
        while socket.interrupt() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(reader.join().unwrap(), [70]);
    });
}

#[test]
fn congestion_marks_are_seen_on_both_families() {
    let (both, at) = bind("[::]:0");
    for (address, level, name) in
        [("127.0.0.1:0", libc::SOL_IP, libc::IP_TOS), ("[::1]:0", libc::SOL_IPV6, libc::IPV6_TCLASS)]
    {
        let (from, source) = bind(address);
        let target = SocketAddr::new(source.ip(), at.port());
        for mark in [0, 1, 2] {
            set_option(&from, level, name, mark).unwrap();
            let received = carry(&from, &both, target, 2000, 1000);
            assert_eq!(c_int::from(received[0].ecn), mark, "{address}");
        }
    }
}

#[test]
fn sockets_share_a_port_where_all_of_them_allow_it() {
    let first = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
    let at = first.local_addr().unwrap();
    assert!(UdpSocket::bind(at, true).is_ok());
    assert_eq!(UdpSocket::bind(at, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
