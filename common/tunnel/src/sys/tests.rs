//! Real devices, each in a network namespace of its own.
//!
//! A thread leaves the namespace of the process for a new one; it goes with the thread, so nothing is left behind.

use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blueprint_tests_support::{Need, require};
use nix::sched::{CloneFlags, unshare};

use super::netlink::{LinkConfig, NetlinkError, Notice, configure};
use super::poll::EventFd;
use super::tun::{HEADER_BYTES, Offload, TunConfig, TunDevice, TunError, TunQueue};
use super::udp::UdpSocket;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// Runs `work` in a new network namespace.
fn in_namespace(work: impl FnOnce() + Send) {
    if !require(&[Need::Root, Need::Program("ip"), Need::Device("/dev/net/tun")]) {
        return;
    }
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    };
    if let Err(panic) = std::thread::scope(|scope| scope.spawn(inside).join()) {
        std::panic::resume_unwind(panic);
    }
}

/// What `ip` prints in this namespace; `None` where it fails.
fn ip(arguments: &str) -> Option<String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn config(name: &str) -> TunConfig {
    TunConfig { name: name.to_owned(), queues: 1, offload: Offload { tso: true, uso: true } }
}

fn link() -> LinkConfig {
    LinkConfig {
        addresses: vec!["10.99.0.1/24".parse().unwrap()],
        mtu: 1380,
        queue_len: 123,
        ..LinkConfig::default()
    }
}

/// A device with an address, and its only queue.
fn ready(name: &str) -> (TunDevice, TunQueue) {
    let (device, mut queues) = TunDevice::open(&config(name)).unwrap();
    assert_eq!(configure(&device, &link()).unwrap(), []);
    (device, queues.pop().unwrap())
}

/// The next packet, with its header, that `wanted` takes.
fn read(queue: &TunQueue, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = vec![0; HEADER_BYTES + 65_536];
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        while let Some(length) = queue.read(&mut buffer).unwrap() {
            if wanted(&buffer[..length]) {
                return buffer[..length].to_vec();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no such packet came");
}

/// An IPv4 packet with a UDP datagram from THEIRS port 7 to OURS, without UDP checksum.
fn packet_to(port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(THEIRS.octets());
    packet.extend(OURS.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !u16::try_from(folded).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(7_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[test]
fn a_device_has_what_was_asked_for_and_leaves_nothing_behind() {
    in_namespace(|| {
        let (device, queues) = TunDevice::open(&config("bpa%d")).unwrap();
        assert_eq!(device.name, "bpa0");
        let routes = ["10.98.0.0/16", "10.99.0.0/24", "fd00:98::/32"].map(|route| route.parse().unwrap());
        let mut wanted = LinkConfig { routes: routes.to_vec(), gso_max: Some(61_560), ..link() };
        wanted.addresses.push("fd00:99::1/64".parse().unwrap());
        assert_eq!(configure(&device, &wanted).unwrap(), []);

        let shown = ip("-d link show dev bpa0").unwrap();
        for part in ["mtu 1380", "qlen 123", "gso_max_size 61560", ",UP,", "addrgenmode none"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(shown.starts_with(&format!("{}: bpa0", device.index)), "{shown}");
        let addresses = ip("-o address show dev bpa0").unwrap();
        assert_eq!(addresses.lines().count(), 2, "{addresses}");
        assert!(addresses.contains("10.99.0.1/24") && addresses.contains("fd00:99::1/64"), "{addresses}");
        let v4 = ip("-4 route show dev bpa0").unwrap();
        assert!(v4.contains("10.98.0.0/16") && v4.contains("10.99.0.0/24"), "{v4}");
        assert!(ip("-6 route show dev bpa0").unwrap().contains("fd00:98::/32"));

        let too_long =
            LinkConfig { gso_max: Some(1 << 20), ..LinkConfig { addresses: Vec::new(), ..link() } };
        assert_eq!(configure(&device, &too_long).unwrap(), [Notice::GsoMaxKept { bytes: 1 << 20 }]);

        drop(queues);
        assert_eq!(ip("link show dev bpa0"), None);
        assert!(ip("route show").unwrap().is_empty());
        let error = configure(&device, &link()).unwrap_err();
        assert!(matches!(error, NetlinkError::Refuse { .. }));
        assert!(error.to_string().contains("set the MTU"), "{error}");
    });
}

#[test]
fn a_name_that_is_in_use_is_not_taken_over() {
    in_namespace(|| {
        let (_device, _queues) = TunDevice::open(&config("bpb0")).unwrap();
        ip("tuntap add name kept mode tun").unwrap();
        ip("link add other type bridge").unwrap();
        for name in ["bpb0", "kept", "other"] {
            assert!(matches!(TunDevice::open(&config(name)), Err(TunError::InUse { .. })), "{name}");
        }
        let (second, _queues) = TunDevice::open(&config("bpb%d")).unwrap();
        assert_eq!(second.name, "bpb1");
    });
}

#[test]
fn a_default_route_and_a_foreign_route_are_refused() {
    in_namespace(|| {
        let (device, _queues) = TunDevice::open(&config("bpc0")).unwrap();
        let all = vec!["0.0.0.0/0".parse().unwrap()];
        let refused = configure(&device, &LinkConfig { routes: all.clone(), ..link() });
        assert!(matches!(refused, Err(NetlinkError::DefaultRoute { .. })), "{refused:?}");
        let allowed = LinkConfig { routes: all, allow_default_route: true, ..link() };
        assert_eq!(configure(&device, &allowed).unwrap(), []);
        assert!(ip("route show").unwrap().contains("default dev bpc0"));

        let (other, _queues) = TunDevice::open(&config("bpc1")).unwrap();
        let twice = LinkConfig {
            addresses: vec!["10.97.0.1/24".parse().unwrap()],
            routes: vec!["10.99.0.0/24".parse().unwrap()],
            ..link()
        };
        let error = configure(&other, &twice).unwrap_err();
        assert!(error.to_string().contains("add the route 10.99.0.0/24 on bpc1: it is there"), "{error}");
        let small = LinkConfig { addresses: vec!["fd00::1/64".parse().unwrap()], mtu: 1000, ..link() };
        assert!(matches!(configure(&other, &small), Err(NetlinkError::Ipv6Mtu { .. })));
    });
}

#[test]
fn without_ipv6_its_addresses_are_left_out_and_told() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let (device, _queues) = TunDevice::open(&config("bpd0")).unwrap();
        let address = "fd00:99::1/64".parse().unwrap();
        let route = "fd00:98::/64".parse().unwrap();
        let mut wanted = LinkConfig { routes: vec![route], ..link() };
        wanted.addresses.push(address);
        let left_out = [address, route].map(|network| Notice::Ipv6Disabled { network });
        assert_eq!(configure(&device, &wanted).unwrap(), left_out);
        assert!(left_out[0].to_string().contains("fd00:99::1/64"));
        assert!(ip("-o address show dev bpd0").unwrap().contains("10.99.0.1/24"));
    });
}

#[test]
fn a_packet_from_a_socket_is_read_with_its_header() {
    in_namespace(|| {
        let (device, queue) = ready("bpe0");
        assert!(device.has_header() && queue.has_header());
        let socket = StdSocket::bind((OURS, 0)).unwrap();
        socket.send_to(b"to the other side", (THEIRS, 9)).unwrap();
        let read = read(&queue, |packet| packet.ends_with(b"to the other side"));
        let (header, packet) = read.split_at(HEADER_BYTES);
        // One packet, whose checksum is left to us.
        assert_eq!(header[..2], [1, 0]);
        assert_eq!(packet[0] >> 4, 4);
        assert_eq!(packet[12..20], [OURS.octets(), THEIRS.octets()].concat());
        assert_eq!(packet.len(), 28 + 17);
    });
}

#[test]
fn a_run_of_datagrams_is_read_in_one_piece_where_the_kernel_can() {
    in_namespace(|| {
        let (device, queue) = ready("bpf0");
        let socket = UdpSocket::bind((OURS, 0).into(), false).unwrap();
        assert_eq!(socket.send(&[7; 10_500], 1000, (THEIRS, 9).into(), None, true).unwrap(), 0);
        assert!(socket.has_bundles());
        let from_us = |packet: &[u8]| packet.ends_with(&[7; 500]);
        let read = read(&queue, from_us);
        if device.offload().uso {
            assert_eq!(read.len(), HEADER_BYTES + 28 + 10_500);
            // VIRTIO_NET_HDR_GSO_UDP_L4, and the length of a datagram.
            assert_eq!(read[1], 5);
            assert_eq!(u16::from_ne_bytes([read[4], read[5]]), 1000);
        } else {
            assert_eq!(read.len(), HEADER_BYTES + 28 + 500);
        }
        // One longer than the MTU is nobody's to fragment.
        assert_eq!(socket.send(&[8; 1400], 1400, (THEIRS, 9).into(), None, true).unwrap(), 1);
        assert_eq!(socket.send(&[8; 2800], 1400, (THEIRS, 9).into(), None, true).unwrap(), 2);
        assert!(socket.has_bundles());
    });
}

#[test]
fn a_written_packet_arrives_at_a_socket() {
    in_namespace(|| {
        let (device, queue) = ready("bpg0");
        let socket = StdSocket::bind((OURS, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let packet = packet_to(socket.local_addr().unwrap().port(), b"from the other side");
        let (front, back) = packet.split_at(30);
        let header = [0; HEADER_BYTES];
        let parts = [&header[..], front, back].map(IoSlice::new);
        queue.write(&parts).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"from the other side");
        assert_eq!(from, (THEIRS, 7).into());

        // Down, then gone: neither is taken for silence.
        ip(&format!("link set {} down", device.name)).unwrap();
        assert_eq!(queue.write(&parts).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(queue.is_down());
        ip(&format!("link set {} up", device.name)).unwrap();
        queue.write(&parts).unwrap();
        assert_eq!(queue.read(&mut buffer).unwrap(), None);
        assert!(!queue.is_down());
        let nobody = EventFd::new().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.wait(&mut [0; 100], nobody.as_fd()).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            ip(&format!("link del {}", device.name)).unwrap();
            assert_eq!(waiting.join().unwrap(), None);
        });
        assert!(queue.is_down());
        assert_eq!(queue.read(&mut buffer).unwrap(), None);
    });
}

#[test]
fn a_packet_and_another_thread_end_a_wait_also_on_systems_that_have_to_poll() {
    in_namespace(|| {
        for (name, polls) in [("bpg1", false), ("bpg2", true)] {
            let (_device, mut queue) = ready(name);
            if polls {
                queue.stop_waiting().unwrap();
            }
            let mut buffer = vec![0; HEADER_BYTES + 65_536];
            // What the system itself sends on a new interface.
            std::thread::sleep(Duration::from_millis(20));
            while queue.read(&mut buffer).unwrap().is_some() {}
            let (ended, stop) = (AtomicBool::new(false), EventFd::new().unwrap());
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let _entered = queue.enter();
                    let (mut buffer, mut packets) = (vec![0; HEADER_BYTES + 65_536], 0);
                    while !ended.load(Ordering::SeqCst) {
                        let read = queue.wait(&mut buffer, stop.as_fd()).unwrap();
                        packets += usize::from(read == Some(HEADER_BYTES + 32));
                    }
                    packets
                });
                let socket = StdSocket::bind((OURS, 0)).unwrap();
                for _ in 0..3 {
                    socket.send_to(b"flow", (THEIRS, 9)).unwrap();
                    std::thread::sleep(Duration::from_millis(20));
                }
                ended.store(true, Ordering::SeqCst);
                stop.wake();
                while queue.interrupt() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(reader.join().unwrap(), 3, "polls: {polls}");
            });
        }
    });
}

#[test]
fn flows_are_spread_over_several_queues() {
    in_namespace(|| {
        let (device, queues) = TunDevice::open(&TunConfig { queues: 2, ..config("bph0") }).unwrap();
        assert_eq!(queues.len(), 2);
        assert_eq!(configure(&device, &link()).unwrap(), []);
        for _ in 0..64 {
            let socket = StdSocket::bind((OURS, 0)).unwrap();
            socket.send_to(b"flow", (THEIRS, 9)).unwrap();
        }
        let count = |queue: &TunQueue| {
            let mut buffer = vec![0; HEADER_BYTES + 65_536];
            let packets = std::iter::from_fn(|| queue.read(&mut buffer).unwrap());
            packets.filter(|length| *length == HEADER_BYTES + 32).count()
        };
        let counts: Vec<usize> = queues.iter().map(count).collect();
        assert_eq!(counts.iter().sum::<usize>(), 64, "{counts:?}");
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    });
}

#[test]
fn without_runs_packets_still_have_a_header() {
    in_namespace(|| {
        let wanted = TunConfig { offload: Offload::default(), ..config("bpi0") };
        let (device, _queues) = TunDevice::open(&wanted).unwrap();
        assert_eq!(device.offload(), Offload::default());
        assert!(device.has_header());
    });
}
