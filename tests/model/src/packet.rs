//! Inner packets with a number inside: what the local stacks send each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const HOPS: u8 = 64;
const PAYLOAD_BYTES: u16 = 8;

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) number: u64,
}

/// Makes a packet; addresses of two families make an IPv4 one from nowhere.
pub(crate) fn make(label: Label) -> Vec<u8> {
    let mut packet = match (label.source, label.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => v6_header(source, destination),
        (IpAddr::V4(source), IpAddr::V4(destination)) => v4_header(source, destination),
        (IpAddr::V6(_), IpAddr::V4(destination)) => v4_header(Ipv4Addr::UNSPECIFIED, destination),
        (IpAddr::V4(source), IpAddr::V6(_)) => v4_header(source, Ipv4Addr::UNSPECIFIED),
    };
    packet.extend(label.number.to_be_bytes());
    packet
}

/// Reads a packet back.
pub(crate) fn read(packet: &[u8]) -> Option<Label> {
    let number = |at: usize| packet.get(at..).and_then(|rest| rest.try_into().ok()).map(u64::from_be_bytes);
    let v4 = |at: usize| packet.get(at..at + 4)?.try_into().ok().map(|bytes: [u8; 4]| IpAddr::from(bytes));
    let v6 = |at: usize| packet.get(at..at + 16)?.try_into().ok().map(|bytes: [u8; 16]| IpAddr::from(bytes));
    match packet.first()? >> 4 {
        4 => Some(Label { source: v4(12)?, destination: v4(16)?, number: number(V4_BYTES)? }),
        6 => Some(Label { source: v6(8)?, destination: v6(24)?, number: number(V6_BYTES)? }),
        _ => None,
    }
}

/// True for an IPv4 echo reply. One that answers an echo of an earlier process of the same agent is of no use to
/// the core, which leaves it to the local stack.
pub(crate) fn is_echo_reply(packet: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> bool {
    let at = |at: usize| packet.get(at).copied();
    let addresses = [source.octets(), destination.octets()].concat();
    at(0) == Some(0x45)
        && (at(9), at(V4_BYTES)) == (Some(ICMP), Some(0))
        && packet.get(12..V4_BYTES) == Some(addresses.as_slice())
}

fn v4_header(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let [len_high, len_low] = (PAYLOAD_BYTES + 20).to_be_bytes();
    let mut header = vec![0x45, 0, len_high, len_low, 0, 0, 0x40, 0, HOPS, UDP, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let words = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    header
}

fn v6_header(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let [len_high, len_low] = PAYLOAD_BYTES.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, len_high, len_low, UDP, HOPS];
    header.extend(source.octets());
    header.extend(destination.octets());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_survives_its_bytes() {
        for (source, destination) in [("10.88.0.2", "10.88.0.1"), ("fd12::2", "fd12::1")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let label = Label { source, destination, number: 7 };
            assert_eq!(read(&make(label)), Some(label));
        }
    }
}
