//! Reads from an IP packet what decides whose it is.
//!
//! Checksums are left to `checksum`, and the meaning of sequence numbers to smoltcp; a packet that this
//! module does not recognise goes to no flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const FLAG_FIN: u8 = 0x01;
const FLAG_SYN: u8 = 0x02;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;

/// The two ends of a connection, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// Our overlay address and port.
    pub(crate) local: SocketAddr,
    /// The other end's.
    pub(crate) remote: SocketAddr,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    IcmpV4,
    IcmpV6,
    Other,
}

/// The IP header of an unfragmented packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip {
    /// Who sent it.
    pub(crate) source: IpAddr,
    /// Whom it is for.
    pub(crate) destination: IpAddr,
    /// What it carries.
    pub(crate) protocol: Protocol,
    /// The same as its number (IANA, protocol numbers).
    pub(crate) protocol_number: u8,
    /// Where the content begins, in bytes from the start of the packet.
    pub(crate) start: usize,
    /// Where the content ends; at most the packet's length.
    pub(crate) end: usize,
}

impl Ip {
    /// Reads the header; `None` for a fragment, a cut packet and anything that is not IP.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet, false),
            6 => Self::parse_v6(packet, false),
            _ => None,
        }
    }

    /// Reads the header of a packet that an error message quotes: the content may be cut.
    pub(crate) fn parse_quoted(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet, true),
            6 => Self::parse_v6(packet, true),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8], is_quoted: bool) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let [first, _, long, short, _, _, high, low, _, protocol, _, _, addresses @ ..] = *header;
        let is_fragment = (high & 0x3f) | low != 0;
        let start = usize::from(first & 0x0f) * 4;
        let end = usize::from(u16::from_be_bytes([long, short]));
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol: protocol_of(protocol, 1, Protocol::IcmpV4),
            protocol_number: protocol,
            start,
            end,
        }
        .within(packet.len(), is_quoted)
        .filter(|_| !is_fragment && start >= 20)
    }

    fn parse_v6(packet: &[u8], is_quoted: bool) -> Option<Self> {
        let header: &[u8; 40] = packet.first_chunk()?;
        let [_, _, _, _, long, short, protocol, _, addresses @ ..] = header;
        let (source, destination) = addresses.split_first_chunk::<16>()?;
        let destination: &[u8; 16] = destination.first_chunk()?;
        Self {
            source: Ipv6Addr::from(*source).into(),
            destination: Ipv6Addr::from(*destination).into(),
            protocol: protocol_of(*protocol, 58, Protocol::IcmpV6),
            protocol_number: *protocol,
            start: 40,
            end: 40 + usize::from(u16::from_be_bytes([*long, *short])),
        }
        .within(packet.len(), is_quoted)
    }

    fn within(mut self, length: usize, is_quoted: bool) -> Option<Self> {
        if is_quoted {
            self.end = self.end.min(length);
        }
        (self.start <= self.end && self.end <= length).then_some(self)
    }

    /// True for version 4.
    pub(crate) const fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The ends of a TCP segment or UDP datagram, as its receiver sees them.
    pub(crate) fn ends(&self, packet: &[u8]) -> Option<Ends> {
        let [s0, s1, d0, d1] = *packet.get(self.start..self.end)?.first_chunk::<4>()?;
        let local = SocketAddr::new(self.destination, u16::from_be_bytes([d0, d1]));
        let remote = SocketAddr::new(self.source, u16::from_be_bytes([s0, s1]));
        Some(Ends { local, remote })
    }
}

const fn protocol_of(number: u8, icmp_number: u8, icmp: Protocol) -> Protocol {
    match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ if number == icmp_number => icmp,
        _ => Protocol::Other,
    }
}

/// What the netstack has to know of a TCP segment besides what smoltcp makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Whose it is; the receiver's end is `local`.
    pub(crate) ends: Ends,
    /// A bare SYN: somebody wants to open a connection.
    pub(crate) opens: bool,
    /// Neither SYN nor FIN nor RST.
    pub(crate) is_plain: bool,
    /// Sequence number of the first byte.
    pub(crate) sequence: u32,
    /// What it acknowledges.
    pub(crate) acknowledged: Option<u32>,
    /// Where the acknowledgement number stands, in bytes from the start of the packet.
    pub(crate) acknowledged_at: usize,
    /// The window it tells, before it is scaled.
    pub(crate) window: u16,
    /// Bytes of data.
    pub(crate) length: u32,
    /// Sequence numbers it takes: its bytes, and one each for SYN and FIN.
    pub(crate) span: u32,
}

impl Segment {
    /// Reads a TCP segment out of an unfragmented IP packet; `None` for anything else.
    #[cfg(test)]
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        Self::read(packet, &Ip::parse(packet)?)
    }

    /// Reads the TCP segment of a packet whose IP header is known; `None` for anything else.
    pub(crate) fn read(packet: &[u8], ip: &Ip) -> Option<Self> {
        if ip.protocol != Protocol::Tcp {
            return None;
        }
        let content = packet.get(ip.start..ip.end)?;
        let header: &[u8; 20] = content.first_chunk()?;
        let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, ..] = *header;
        let length = content.len().checked_sub(usize::from(offset >> 4) * 4)?;
        let length = u32::try_from(length).ok()?;
        let has = |flag| flags & flag != 0;
        Some(Self {
            ends: ip.ends(packet)?,
            opens: flags & (FLAG_FIN | FLAG_SYN | FLAG_RST | FLAG_ACK) == FLAG_SYN,
            is_plain: flags & (FLAG_FIN | FLAG_SYN | FLAG_RST) == 0,
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            acknowledged: has(FLAG_ACK).then_some(u32::from_be_bytes([a0, a1, a2, a3])),
            acknowledged_at: ip.start + 8,
            window: u16::from_be_bytes([w0, w1]),
            length,
            span: length + u32::from(has(FLAG_SYN)) + u32::from(has(FLAG_FIN)),
        })
    }

    /// Writes the window of the packet that this was read from.
    pub(crate) fn put_window(&self, packet: &mut [u8], window: u16) {
        if let Some(place) = packet.get_mut(self.acknowledged_at + 6..).and_then(<[u8]>::first_chunk_mut) {
            *place = window.to_be_bytes();
        }
    }

    /// Takes the FIN out of the packet that this was read from.
    pub(crate) fn clear_fin(&self, packet: &mut [u8]) {
        if let Some(flags) = packet.get_mut(self.acknowledged_at + 5) {
            *flags &= !FLAG_FIN;
        }
    }

    /// Makes of the packet that this was read from one that only acknowledges, and is at `sequence`.
    ///
    /// `None` where it opens, resets or acknowledges nothing. Checksums are left as they are.
    pub(crate) fn strip<'p>(&self, packet: &'p mut [u8], sequence: u32) -> Option<&'p mut [u8]> {
        let start = self.acknowledged_at.checked_sub(8)?;
        let (offset, flags) = (*packet.get(start + 12)?, *packet.get(start + 13)?);
        if flags & (FLAG_SYN | FLAG_RST) != 0 || flags & FLAG_ACK == 0 {
            return None;
        }
        let end = start + usize::from(offset >> 4) * 4;
        let packet = packet.get_mut(..end)?;
        let (length_at, length) =
            if packet.first()? >> 4 == 4 { (2, end) } else { (4, end.checked_sub(40)?) };
        *packet.get_mut(length_at..)?.first_chunk_mut()? = u16::try_from(length).ok()?.to_be_bytes();
        *packet.get_mut(start + 4..)?.first_chunk_mut()? = sequence.to_be_bytes();
        self.clear_fin(packet);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

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
