//! The checksums of whole packets, instead of smoltcp's, which sum two bytes at a time.

use blueprint_common_tunnel_core::offload::checksum::{finish, is_good, pseudo_header, sum};

use crate::segment::{Ip, Protocol};

/// True where the checksums of the IPv4 header and of TCP, UDP or ICMP are right; other protocols are not looked at.
pub(crate) fn is_intact(packet: &[u8], ip: &Ip) -> bool {
    if ip.is_v4() && packet.get(..ip.start).is_none_or(|header| !is_good(sum(header, 0))) {
        return false;
    }
    let Some(content) = packet.get(ip.start..ip.end) else { return false };
    match ip.protocol {
        // Over IPv4 a UDP sender may leave it out (RFC 768); over IPv6 it may not (RFC 8200, section 8.1).
        Protocol::Udp if content.get(6..8) == Some(&[0, 0]) => ip.is_v4(),
        Protocol::Tcp | Protocol::Udp | Protocol::IcmpV6 => is_good(sum(content, pseudo(packet, ip))),
        Protocol::IcmpV4 => is_good(sum(content, 0)),
        Protocol::Other => true,
    }
}

/// Writes the checksums of a packet that is otherwise complete.
pub(crate) fn fill(packet: &mut [u8]) {
    let Some(ip) = Ip::parse(packet) else { return };
    if ip.is_v4() {
        put(packet, 10, 0);
        let header = packet.get(..ip.start).map_or(0, |header| sum(header, 0));
        put(packet, 10, finish(header));
    }
    let (at, with_pseudo) = match ip.protocol {
        Protocol::Tcp => (16, true),
        Protocol::Udp => (6, true),
        Protocol::IcmpV4 => (2, false),
        Protocol::IcmpV6 => (2, true),
        Protocol::Other => return,
    };
    put(packet, ip.start + at, 0);
    let initial = if with_pseudo { pseudo(packet, &ip) } else { 0 };
    let value = finish(packet.get(ip.start..ip.end).map_or(0, |content| sum(content, initial)));
    // Zero would say that there is none (RFC 768).
    let value = if value == 0 && ip.protocol == Protocol::Udp { u16::MAX } else { value };
    put(packet, ip.start + at, value);
}

/// Sum of the pseudo-header.
fn pseudo(packet: &[u8], ip: &Ip) -> u64 {
    let addresses = if ip.is_v4() { packet.get(12..20) } else { packet.get(8..40) };
    let length_bytes = u32::try_from(ip.end - ip.start).unwrap_or(u32::MAX);
    pseudo_header(addresses.unwrap_or_default(), ip.protocol_number, length_bytes)
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    if let Some(place) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *place = value.to_be_bytes();
    }
}
