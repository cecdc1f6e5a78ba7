//! Reads from an IP packet what decides which flow it belongs to.
//!
//! Checksums, lengths and sequence numbers are left to smoltcp; a packet that this module does
//! not recognise goes to no flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const FLAG_FIN: u8 = 0x01;
const FLAG_SYN: u8 = 0x02;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;

/// The two ends of a TCP connection, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// Our overlay address and port.
    pub(crate) local: SocketAddr,
    /// The other end's.
    pub(crate) remote: SocketAddr,
}

/// What the netstack has to know of a TCP segment before smoltcp sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Whose it is.
    pub(crate) ends: Ends,
    /// A bare SYN: somebody wants to open a connection.
    pub(crate) opens: bool,
}

impl Segment {
    /// Reads a TCP segment out of an unfragmented IP packet; `None` for anything else.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let [first, _, _, _, _, _, fragment_high, fragment_low, _, protocol, _, _, addresses @ ..] = header;
        let fragmented = (fragment_high & 0x3f) | fragment_low != 0;
        if *protocol != TCP || fragmented {
            return None;
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *addresses;
        let tcp = packet.get(usize::from(first & 0x0f) * 4..)?;
        Self::parse_tcp(tcp, Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into())
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let (header, tcp) = packet.split_first_chunk::<40>()?;
        let [_, _, _, _, _, _, next_header, _, addresses @ ..] = header;
        if *next_header != TCP {
            return None;
        }
        let (source, destination) = addresses.split_first_chunk::<16>()?;
        let destination: &[u8; 16] = destination.first_chunk()?;
        Self::parse_tcp(tcp, Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into())
    }

    fn parse_tcp(tcp: &[u8], source: IpAddr, destination: IpAddr) -> Option<Self> {
        let header: &[u8; 20] = tcp.first_chunk()?;
        let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, _, flags, ..] = *header;
        let local = SocketAddr::new(destination, u16::from_be_bytes([d0, d1]));
        let remote = SocketAddr::new(source, u16::from_be_bytes([s0, s1]));
        let opens = flags & (FLAG_FIN | FLAG_SYN | FLAG_RST | FLAG_ACK) == FLAG_SYN;
        Some(Self { ends: Ends { local, remote }, opens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn_v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        packet.extend([0x80, 0, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, FLAG_SYN, 0, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_bare_syn_is_recognised_in_both_versions() {
        let segment = Segment::parse(&syn_v4()).unwrap();
        assert!(segment.opens);
        assert_eq!(segment.ends.local, "10.0.0.1:8080".parse().unwrap());
        assert_eq!(segment.ends.remote, "10.0.0.2:32768".parse().unwrap());

        let mut six = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
        six.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        six.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        six.extend_from_slice(&syn_v4()[20..]);
        let segment = Segment::parse(&six).unwrap();
        assert!(segment.opens);
        assert_eq!(segment.ends.local, "[fd00::1]:8080".parse().unwrap());
    }

    #[test]
    fn an_answer_and_a_reset_open_nothing() {
        for flags in [FLAG_SYN | FLAG_ACK, FLAG_ACK, FLAG_RST, FLAG_SYN | FLAG_FIN] {
            let mut packet = syn_v4();
            packet[33] = flags;
            assert!(!Segment::parse(&packet).unwrap().opens);
        }
    }

    #[test]
    fn cut_packets_and_fragments_belong_to_nobody() {
        let whole = syn_v4();
        for length in 0..whole.len() {
            assert_eq!(Segment::parse(&whole[..length]), None, "{length}");
        }
        for (position, value) in [(6, 0x20), (7, 1), (9, 17), (0, 0x55), (0, 0x4f)] {
            let mut packet = whole.clone();
            packet[position] = value;
            assert_eq!(Segment::parse(&packet), None);
        }
    }
}
