//! Inner packets and outer MACs, naively and byte by byte (RFC 791, 1071, 8200; WireGuard paper, section 5.4.4);
//! nothing here is shared with what is tested.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "fails loudly where it is given nonsense")]

use std::net::IpAddr;

use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};

/// The complement of the one's complement sum of big-endian pairs.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for at in (0..bytes.len()).step_by(2) {
        let low = if at + 1 < bytes.len() { bytes[at + 1] } else { 0 };
        sum += u32::from(bytes[at]) * 256 + u32::from(low);
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    0xffff - u16::try_from(sum).unwrap()
}

/// Two bytes, big-endian.
pub(crate) fn short_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes the checksum of an IPv4 header of 20 bytes.
pub(crate) fn seal_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IP header for `payload`, whose addresses are of one family.
pub(crate) fn ip_packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    payload: &[u8],
) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (len + 20).to_be_bytes();
            let mut packet = vec![0x45, 0, high, low, 0, 0, 0, 0, hops, protocol, 0, 0];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            seal_header(&mut packet);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = len.to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, high, low, protocol, hops];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("addresses of two families")
        }
    };
    packet.extend(payload);
    packet
}

/// A UDP packet without checksum in IPv4, with an arbitrary one in IPv6.
pub(crate) fn udp_packet(source: IpAddr, destination: IpAddr, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut datagram: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    datagram.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
    datagram.extend(if source.is_ipv4() { [0, 0] } else { [1, 1] });
    datagram.extend(payload);
    ip_packet(source, destination, 17, 64, &datagram)
}

/// The packet after one hop.
pub(crate) fn after_hop(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        seal_header(&mut packet);
    } else {
        packet[7] -= 1;
    }
    packet
}

/// First MAC of a handshake message to whoever holds `key`; `None` where it is no such message.
pub(crate) fn first_mac(key: &[u8; 32], datagram: &[u8]) -> Option<[u8; 16]> {
    let covered = match (datagram.first_chunk()?, datagram.len()) {
        ([1, 0, 0, 0], 148) => &datagram[..116],
        ([2, 0, 0, 0], 92) => &datagram[..60],
        _ => return None,
    };
    let label = Blake2s256::new().chain_update(b"mac1----").chain_update(key).finalize();
    let mut mac = Blake2sMac::<blake2::digest::consts::U16>::new_from_slice(&label).unwrap();
    Update::update(&mut mac, covered);
    Some(mac.finalize_fixed().into())
}

/// True for a handshake message whose first MAC is for `key`.
pub(crate) fn has_first_mac(key: &[u8; 32], datagram: &[u8]) -> bool {
    first_mac(key, datagram).is_some_and(|mac| datagram[datagram.len() - 32..datagram.len() - 16] == mac)
}

/// Writes the first MAC of what is a handshake message.
pub(crate) fn set_first_mac(key: &[u8; 32], datagram: &mut [u8]) {
    if let Some(mac) = first_mac(key, datagram) {
        let at = datagram.len() - 32;
        datagram[at..at + 16].copy_from_slice(&mac);
    }
}

/// What a sender vouches for in a message: not its MACs, and of a handshake neither its own index (WireGuard paper,
/// section 5.4: no transcript covers it).
pub(crate) fn vouched(datagram: &[u8]) -> &[u8] {
    match (datagram.first(), datagram.len()) {
        (Some(1), 148) => &datagram[8..116],
        (Some(2), 92) => &datagram[8..60],
        _ => datagram,
    }
}
