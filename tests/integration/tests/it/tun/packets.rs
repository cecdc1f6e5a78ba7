//! IP packets as a hostile program writes them, byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Bit "more fragments" of the fragment field (RFC 791, section 3.1).
pub(super) const MORE_FRAGMENTS: u16 = 0x2000;

/// A packet of any protocol, with the header that its addresses call for.
pub(super) fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => v4(from, to, protocol, &[], payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => v6(from, to, protocol, payload),
        (IpAddr::V4(_), IpAddr::V6(to)) => v6(Ipv6Addr::LOCALHOST, to, protocol, payload),
        (IpAddr::V6(_), IpAddr::V4(to)) => v4(Ipv4Addr::LOCALHOST, to, protocol, &[], payload),
    }
}

/// A UDP datagram; without a checksum over IPv4.
pub(super) fn udp(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    packet(from, to, UDP, &[&[0x12, 0x34], &port.to_be_bytes()[..], &[0, 12, 0, 0], b"evil"].concat())
}

/// A TCP segment with these flags, such as [`SYN`]; its checksum is wrong, which no filter looks at.
pub(super) fn tcp(from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let head = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    packet(from, to, TCP, &[&head[..], &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0, 0, 0, 0, 0]].concat())
}

/// Flag of a segment that begins a connection.
pub(super) const SYN: u8 = 0x02;
/// Flag of a segment that belongs to a connection.
pub(super) const ACK: u8 = 0x10;

/// An IPv4 packet with options, whose bytes are a multiple of four.
pub(super) fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap_or(15);
    let length = u16::try_from(20 + options.len() + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x40 | words, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    packet.extend(payload);
    sealed(packet)
}

/// The same IPv4 packet as a fragment: flags and offset in units of eight bytes.
pub(super) fn fragment(packet: &[u8], field: u16) -> Vec<u8> {
    with(packet, 6, &field.to_be_bytes())
}

/// The same IPv4 packet with other bytes at `at`, and a right checksum.
pub(super) fn with(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    sealed(changed(packet, at, bytes))
}

/// The same packet with other bytes at `at`, and nothing mended.
pub(super) fn changed(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for (to, from) in packet.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
    packet
}

fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// Writes the header's checksum (RFC 1071).
fn sealed(packet: Vec<u8>) -> Vec<u8> {
    let mut packet = changed(&packet, 10, &[0, 0]);
    let bytes = usize::from(packet.first().copied().unwrap_or(0x45) & 0x0f) * 4;
    let header = packet.get(..bytes).unwrap_or(&packet);
    let words = header.chunks_exact(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    packet = changed(&packet, 10, &sum.to_be_bytes());
    packet
}
