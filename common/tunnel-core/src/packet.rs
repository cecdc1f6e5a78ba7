//! Inner packets: what is read of a header, echo messages, and the checksums of both (RFC 791, 792, 8200, 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Discard;
use crate::echo::Beat;
use crate::offload::checksum::{finish, sum, update};

const V4_HEADER_BYTES: usize = 20;
const V6_HEADER_BYTES: usize = 40;
const ICMP_HEADER_BYTES: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
/// Hop limit of what this core makes itself.
const OWN_HOP_LIMIT: u8 = 64;
/// Header bytes of an IPv4 echo message.
pub(crate) const ICMP_ECHO_BYTES: usize = V4_HEADER_BYTES + ICMP_HEADER_BYTES;
const V6_FRAGMENT: u8 = 44;
/// Hop-by-hop, routing, destination options, mobility, host identity, shim6 and the two experimental headers.
const V6_EXTENSIONS: [u8; 8] = [0, 43, 60, 135, 139, 140, 253, 254];

/// What routing and filtering need of an inner packet. Only whole, plain packets have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    payload_at: usize,
}

/// Says that a packet is the tunnel's own question about a path; see [`is_probe`].
const PROBE_MAGIC: [u8; 8] = *b"bpprobe1";

/// True for the tunnel's own questions and answers about a path, whichever way they came.
pub(crate) fn is_probe(packet: &[u8]) -> bool {
    let is_magic = |at: usize| packet.get(at..).is_some_and(|payload| payload.starts_with(&PROBE_MAGIC));
    is_magic(V4_HEADER_BYTES + ICMP_HEADER_BYTES) && packet.get(9) == Some(&ICMP_V4)
}

/// True for an echo's payload that a tunnel of ours made, as a sign of life or as a probe.
pub(crate) fn is_own_echo(payload: &[u8]) -> bool {
    payload.starts_with(&PROBE_MAGIC) || Beat::parse(payload).is_some()
}

/// Payload of a probe: what tells it apart, a token, and zeros up to the length asked for.
pub(crate) fn probe_payload(token: u64, len: usize) -> Vec<u8> {
    let mut payload = [&PROBE_MAGIC[..], &token.to_be_bytes()].concat();
    payload.resize(payload.len().max(len), 0);
    payload
}

/// Token of a probe's payload.
pub(crate) fn parse_probe(payload: &[u8]) -> Option<u64> {
    payload.strip_prefix(&PROBE_MAGIC)?.first_chunk().copied().map(u64::from_be_bytes)
}

impl Header {
    /// Reads a packet that fills `packet` exactly.
    ///
    /// # Errors
    ///
    /// Refuses wrong versions, lengths and IPv4 header checksums, fragments, options and extension headers.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Discard> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            _ => Err(Discard::MalformedPacket),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, Discard> {
        let header: &[u8; V4_HEADER_BYTES] = packet.first_chunk().ok_or(Discard::MalformedPacket)?;
        let [first, _, len_high, len_low, _, _, flags, offset, _, protocol, _, _, addresses @ ..] = *header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        match first & 0x0f {
            5 => {}
            0..5 => return Err(Discard::MalformedPacket),
            _ => return Err(Discard::IpOptions),
        }
        if usize::from(u16::from_be_bytes([len_high, len_low])) != packet.len() || checksum(&[header]) != 0 {
            return Err(Discard::MalformedPacket);
        }
        if u16::from_be_bytes([flags, offset]) & 0x3fff != 0 {
            return Err(Discard::Fragment);
        }
        Ok(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            payload_at: V4_HEADER_BYTES,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, Discard> {
        let header: &[u8; V6_HEADER_BYTES] = packet.first_chunk().ok_or(Discard::MalformedPacket)?;
        let [_, _, _, _, len_high, len_low, next, _, addresses @ ..] = *header;
        let payload_len = usize::from(u16::from_be_bytes([len_high, len_low]));
        if payload_len.checked_add(V6_HEADER_BYTES) != Some(packet.len()) {
            return Err(Discard::MalformedPacket);
        }
        if next == V6_FRAGMENT {
            return Err(Discard::Fragment);
        }
        if V6_EXTENSIONS.contains(&next) {
            return Err(Discard::IpOptions);
        }
        let address = |half: Option<&[u8; 16]>| {
            half.map(|bytes| IpAddr::from(Ipv6Addr::from(*bytes))).ok_or(Discard::MalformedPacket)
        };
        Ok(Self {
            source: address(addresses.first_chunk())?,
            destination: address(addresses.last_chunk())?,
            protocol: next,
            payload_at: V6_HEADER_BYTES,
        })
    }

    /// True where [`Self::ports`] and the addresses say all that a decision needs.
    pub(crate) const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP)
    }

    /// Source and destination port; for an ICMP echo its identifier twice; else zeros.
    pub(crate) fn ports(&self, packet: &[u8]) -> (u16, u16) {
        let field = |at: usize| {
            let bytes = self.payload_at.checked_add(at).and_then(|at| packet.get(at..)?.first_chunk());
            bytes.copied().map_or(0, u16::from_be_bytes)
        };
        match (self.protocol, field(0) >> 8) {
            (TCP | UDP, _) => (field(0), field(2)),
            (ICMP_V4, 0 | 8) | (ICMP_V6, 128 | 129) => (field(4), field(4)),
            _ => (0, 0),
        }
    }

    /// True for a TCP segment that opens nothing: it carries the ACK flag, or resets a connection that its sender does not
    /// know, which it does without one where the other end's segment had it (RFC 9293, section 3.5.2).
    pub(crate) fn is_tcp_answer(&self, packet: &[u8]) -> bool {
        const SYN_RST_ACK: (u8, u8, u8) = (0x02, 0x04, 0x10);
        let (syn, rst, ack) = SYN_RST_ACK;
        let flags = self.payload_at.checked_add(13).and_then(|at| packet.get(at));
        self.protocol == TCP && flags.is_some_and(|flags| flags & ack != 0 || flags & (rst | syn) == rst)
    }

    /// The packet that an ICMP error complains about: its protocol and destination port. `None` where this is no
    /// error, or one about a packet that did not go from our destination to our source.
    pub(crate) fn complaint(&self, packet: &[u8]) -> Option<(u8, u16)> {
        let message = packet.get(self.payload_at..)?;
        let is_error = matches!((self.protocol, message.first()?), (ICMP_V4, 3 | 11 | 12) | (ICMP_V6, 1..=4));
        let quoted = message.get(ICMP_HEADER_BYTES..).filter(|_| is_error)?;
        let (protocol, payload_at, source, destination) = if self.source.is_ipv4() {
            let header: &[u8; V4_HEADER_BYTES] = quoted.first_chunk()?;
            let [_, _, _, _, _, _, _, _, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
            let source = IpAddr::from([s0, s1, s2, s3]);
            (protocol, V4_HEADER_BYTES, source, IpAddr::from([d0, d1, d2, d3]))
        } else {
            let source: [u8; 16] = *quoted.get(8..)?.first_chunk()?;
            let destination: [u8; 16] = *quoted.get(24..)?.first_chunk()?;
            (*quoted.get(6)?, V6_HEADER_BYTES, IpAddr::from(source), IpAddr::from(destination))
        };
        let port = quoted.get(payload_at..)?.get(2..)?.first_chunk().copied().map_or(0, u16::from_be_bytes);
        let is_ours = source == self.destination && destination == self.source;
        is_ours.then_some((protocol, port))
    }

    /// Reads an ICMP or ICMPv6 echo message; `None` where the packet is something else or its checksum is wrong.
    pub(crate) fn echo<'a>(&self, packet: &'a [u8]) -> Option<Echo<'a>> {
        let echo = self.unproven_echo(packet)?;
        let message = packet.get(self.payload_at..)?;
        let good = match self.protocol {
            ICMP_V4 => self.source.is_ipv4() && checksum(&[message]) == 0,
            _ => checksum(&[&self.v6_pseudo(message.len())?, message]) == 0,
        };
        good.then_some(echo)
    }

    /// The same without a look at the checksum.
    pub(crate) fn unproven_echo<'a>(&self, packet: &'a [u8]) -> Option<Echo<'a>> {
        let message = packet.get(self.payload_at..)?;
        let [kind, code, _, _, id_high, id_low, _, _] = *message.first_chunk()?;
        let is_request = match (self.protocol, kind, code) {
            (ICMP_V4, 8, 0) | (ICMP_V6, 128, 0) => true,
            (ICMP_V4, 0, 0) | (ICMP_V6, 129, 0) => false,
            _ => return None,
        };
        Some(Echo {
            is_request,
            id: u16::from_be_bytes([id_high, id_low]),
            payload: message.get(ICMP_HEADER_BYTES..)?,
        })
    }

    /// Turns an echo request into its answer in place; the caller has found it to be one by [`Self::echo`].
    pub(crate) fn answer_echo(&self, packet: &mut [u8]) -> Option<()> {
        let (source, destination) = (self.destination, self.source);
        let (header, message) = packet.split_at_mut_checked(self.payload_at)?;
        let back = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.get_mut(12..16)?.copy_from_slice(&source.octets());
                header.get_mut(16..20)?.copy_from_slice(&destination.octets());
                *header.get_mut(8)? = OWN_HOP_LIMIT;
                seal_v4_header(header)?;
                *message.first_mut()? = 0;
                None
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.get_mut(8..24)?.copy_from_slice(&source.octets());
                header.get_mut(24..40)?.copy_from_slice(&destination.octets());
                *header.get_mut(7)? = OWN_HOP_LIMIT;
                *message.first_mut()? = 129;
                Some(
                    Self { source: source.into(), destination: destination.into(), ..*self }
                        .v6_pseudo(message.len())?,
                )
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        message.get_mut(2..4)?.copy_from_slice(&[0, 0]);
        let sum = match &back {
            Some(pseudo) => checksum(&[pseudo, message]),
            None => checksum(&[message]),
        };
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        Some(())
    }

    /// Takes one from the hop limit of a packet that passes through.
    ///
    /// # Errors
    ///
    /// Refuses a packet that has no hop left.
    pub(crate) fn pass_hop(&self, packet: &mut [u8]) -> Result<(), Discard> {
        let at = if self.source.is_ipv4() { 8 } else { 7 };
        let hops = packet.get_mut(at).filter(|hops| **hops > 1).ok_or(Discard::HopLimit)?;
        let before = *hops;
        *hops = hops.saturating_sub(1);
        let field = packet.get_mut(10..).and_then(|rest| rest.first_chunk_mut::<2>());
        if self.source.is_ipv4()
            && let Some(field) = field
        {
            // The hop limit is the high half of its 16-bit word; the low half is the same before and after.
            let [old, new] = [before, before.saturating_sub(1)].map(|hops| u16::from_be_bytes([hops, 0]));
            *field = update(u16::from_be_bytes(*field), old, new).to_be_bytes();
        }
        Ok(())
    }

    /// RFC 8200, section 8.1.
    fn v6_pseudo(&self, message_len: usize) -> Option<[u8; 40]> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            return None;
        };
        let mut pseudo = [0u8; 40];
        pseudo.get_mut(..16)?.copy_from_slice(&source.octets());
        pseudo.get_mut(16..32)?.copy_from_slice(&destination.octets());
        pseudo.get_mut(32..36)?.copy_from_slice(&u32::try_from(message_len).ok()?.to_be_bytes());
        *pseudo.get_mut(39)? = ICMP_V6;
        Some(pseudo)
    }
}

/// An echo message inside a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    pub(crate) is_request: bool,
    pub(crate) id: u16,
    pub(crate) payload: &'a [u8],
}

/// Makes an IPv4 echo request.
pub(crate) fn echo_request(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    id: u16,
    seq: u16,
    payload: &[u8],
) -> Vec<u8> {
    let len = V4_HEADER_BYTES + ICMP_HEADER_BYTES + payload.len();
    let total = u16::try_from(len).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(len);
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, OWN_HOP_LIMIT, ICMP_V4, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&[8, 0, 0, 0]);
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&seq.to_be_bytes());
    packet.extend_from_slice(payload);
    if let Some((header, message)) = packet.split_at_mut_checked(V4_HEADER_BYTES) {
        let _ = seal_v4_header(header);
        let sum = checksum(&[message]).to_be_bytes();
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&sum);
        }
    }
    packet
}

fn seal_v4_header(header: &mut [u8]) -> Option<()> {
    header.get_mut(10..12)?.copy_from_slice(&[0, 0]);
    let sum = checksum(&[header]);
    header.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// The internet checksum (RFC 1071) over the parts in a row; all but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    finish(parts.iter().fold(0, |partial, part| sum(part, partial)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPOKE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
    const HUB: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

    fn request() -> Vec<u8> {
        echo_request(SPOKE, HUB, 7, 9, b"payload")
    }

    #[test]
    fn an_echo_is_read_and_answered() {
        let mut packet = request();
        let header = Header::parse(&packet).unwrap();
        assert_eq!(
            header.echo(&packet),
            Some(Echo { is_request: true, id: 7, payload: b"payload".as_slice() })
        );
        header.answer_echo(&mut packet).unwrap();
        let answer = Header::parse(&packet).unwrap();
        assert_eq!((answer.source, answer.destination), (HUB.into(), SPOKE.into()));
        assert_eq!(
            answer.echo(&packet),
            Some(Echo { is_request: false, id: 7, payload: b"payload".as_slice() })
        );
    }

    #[test]
    fn an_echo_of_ipv6_is_answered_with_a_good_checksum() {
        let (source, destination): (Ipv6Addr, Ipv6Addr) =
            ("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap());
        let mut packet = vec![0x60, 0, 0, 0, 0, 11, ICMP_V6, 64];
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        packet.extend_from_slice(&[128, 0, 0, 0, 1, 2, 3, 4, b'a', b'b', b'c']);
        let header = Header::parse(&packet).unwrap();
        assert_eq!(header.echo(&packet), None, "the checksum is missing");
        let sum = checksum(&[&header.v6_pseudo(11).unwrap(), &packet[40..]]);
        packet[42..44].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(header.echo(&packet).unwrap().payload, b"abc");
        header.answer_echo(&mut packet).unwrap();
        let answer = Header::parse(&packet).unwrap();
        assert_eq!(answer.source, IpAddr::from(destination));
        assert!(answer.echo(&packet).is_some_and(|echo| !echo.is_request && echo.id == 0x0102));
    }

    #[test]
    fn fragments_options_and_wrong_lengths_have_no_header() {
        let packet = request();
        let with = |at: usize, value: u8| {
            let mut packet = packet.clone();
            packet[at] = value;
            let _ = seal_v4_header(&mut packet[..20]);
            Header::parse(&packet)
        };
        assert_eq!(with(6, 0x20), Err(Discard::Fragment), "first fragment");
        assert_eq!(with(7, 1), Err(Discard::Fragment), "later fragment");
        assert_eq!(with(0, 0x46), Err(Discard::IpOptions));
        assert_eq!(with(0, 0x44), Err(Discard::MalformedPacket));
        assert_eq!(with(0, 0x55), Err(Discard::MalformedPacket));
        assert_eq!(with(3, 200), Err(Discard::MalformedPacket), "longer than it is");
        assert_eq!(Header::parse(&[packet.as_slice(), &[0]].concat()), Err(Discard::MalformedPacket));
        let mut flipped = packet;
        flipped[15] ^= 1;
        assert_eq!(Header::parse(&flipped), Err(Discard::MalformedPacket), "header checksum");
    }

    #[test]
    fn a_hop_is_taken_until_none_is_left() {
        let mut packet = request();
        let header = Header::parse(&packet).unwrap();
        for _ in 1..OWN_HOP_LIMIT {
            header.pass_hop(&mut packet).unwrap();
            assert_eq!(Header::parse(&packet), Ok(header));
        }
        assert_eq!(header.pass_hop(&mut packet), Err(Discard::HopLimit));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_answered_and_passed_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        ) {
            let len = u16::try_from(bytes.len()).unwrap();
            if let Some(first) = bytes.first_mut() { *first = version; }
            if version == 0x45 && bytes.len() >= 20 {
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].copy_from_slice(&[0, 0]);
                let _ = seal_v4_header(&mut bytes[..20]);
            }
            if version == 0x60 && bytes.len() >= 40 {
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            }
            if let Ok(header) = Header::parse(&bytes) {
                let _ = header.echo(&bytes);
                let _ = header.answer_echo(&mut bytes);
                let _ = header.pass_hop(&mut bytes);
            }
        }
    }
}
