//! Packets that the netstack writes itself: UDP, and "port unreachable".

use std::net::IpAddr;

use crate::checksum;

/// RFC 1700's default, and Linux's.
const HOP_LIMIT: u8 = 64;
const UDP: u8 = 17;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
/// What a refusal may take in all: what every host can receive (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
const ERROR_MAX_V4: usize = 576;
const ERROR_MAX_V6: usize = 1280;

/// Bytes of the IP header towards `destination`.
pub(super) const fn header_bytes(destination: &IpAddr) -> usize {
    match destination {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}

/// Writes a UDP datagram over the whole of `packet`, whose length must be that of headers and data.
pub(super) fn write_udp(
    packet: &mut [u8],
    (source, source_port): (IpAddr, u16),
    (destination, destination_port): (IpAddr, u16),
    data: [&[u8]; 2],
) {
    let length = u16::try_from(packet.len().saturating_sub(header_bytes(&destination))).unwrap_or(u16::MAX);
    let ([s0, s1], [d0, d1], [l0, l1]) =
        (source_port.to_be_bytes(), destination_port.to_be_bytes(), length.to_be_bytes());
    let [head, tail] = data;
    write(packet, source, destination, UDP, [&[s0, s1, d0, d1, l0, l1, 0, 0], head, tail]);
}

/// What a "port unreachable" quotes of the packet it answers.
pub(super) fn quotable<'a>(packet: &'a [u8], destination: &IpAddr) -> &'a [u8] {
    let max = match destination {
        IpAddr::V4(_) => ERROR_MAX_V4,
        IpAddr::V6(_) => ERROR_MAX_V6,
    };
    packet.get(..max - header_bytes(destination) - 8).unwrap_or(packet)
}

/// Writes "port unreachable" (RFC 792; RFC 4443, section 3.1) over the whole of `packet`.
pub(super) fn write_unreachable(packet: &mut [u8], source: IpAddr, destination: IpAddr, quote: &[u8]) {
    let (protocol, kind, code) = match destination {
        IpAddr::V4(_) => (ICMP_V4, 3, 3),
        IpAddr::V6(_) => (ICMP_V6, 1, 4),
    };
    write(packet, source, destination, protocol, [&[kind, code, 0, 0, 0, 0, 0, 0], quote, &[]]);
}

fn write(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, parts: [&[u8]; 3]) {
    let rest = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [_, .., l0, l1] = packet.len().to_be_bytes();
            let Some((header, rest)) = packet.split_first_chunk_mut::<20>() else { return };
            // Do not fragment, like everything that we send.
            *header = [0x45, 0, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            put(put(header.get_mut(12..).unwrap_or_default(), &source.octets()), &destination.octets());
            rest
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [_, .., l0, l1] = packet.len().saturating_sub(40).to_be_bytes();
            let Some((header, rest)) = packet.split_first_chunk_mut::<40>() else { return };
            let fixed = [0x60, 0, 0, 0, l0, l1, protocol, HOP_LIMIT];
            put(put(put(header, &fixed), &source.octets()), &destination.octets());
            rest
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return,
    };
    let [first, second, third] = parts;
    put(put(put(rest, first), second), third);
    checksum::fill(packet);
}

/// Copies `from` to the start of `to` and returns what follows.
fn put<'a>(to: &'a mut [u8], from: &[u8]) -> &'a mut [u8] {
    let Some((place, rest)) = to.split_at_mut_checked(from.len()) else { return &mut [] };
    place.copy_from_slice(from);
    rest
}
