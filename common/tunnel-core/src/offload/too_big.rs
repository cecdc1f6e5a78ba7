//! The answer to a packet that does not fit the tunnel (RFC 792, 1191, 4443).

use std::net::{Ipv4Addr, Ipv6Addr};

use blueprint_common_types::OverlayLease;

use super::checksum;
use super::ip::{ICMP, ICMP_V6, Ip, V4_HEADER_BYTES, V6_FRAGMENT, V6_HEADER_BYTES, field, put, short};

/// Room that an answer needs at most: the least link of IPv6 (RFC 4443, section 2.4, c).
pub const TOO_BIG_BYTES: usize = 1280;

/// Most bytes of an ICMP error over IPv4 (RFC 1812, section 4.3.2.3).
const V4_ANSWER_BYTES: usize = 576;
const ICMP_HEADER_BYTES: usize = 8;
/// Bytes of the transport that an error must quote at least, so that its sender knows the flow (RFC 792).
const LEAST_QUOTE: usize = 8;
const HOP_LIMIT: u8 = 64;
/// Extension headers that are walked at most; no honest packet has more.
const MAX_EXTENSIONS: usize = 8;
/// Hop-by-hop options, routing and destination options: all give their length in units of 8 bytes less one.
const V6_EXTENSIONS: [u8; 3] = [0, 43, 60];

/// Writes the ICMP message that tells the sender of `packet` to send at most `mtu` bytes, and gives its length.
///
/// It comes `from` this end's own address. `None` where no error may be sent (RFC 1122, section 3.2.2; RFC 4443,
/// section 2.4): for ICMP errors, fragments after the first, and packets from or to more than one host; and where
/// `out` (best [`TOO_BIG_BYTES`]) is too small or `packet` is no IP packet.
///
/// Deviation: IPv4 senders are told whether or not they forbade fragments, since the tunnel does not make any.
/// Deviation: RFC 4443 allows an answer to multicast packets; the overlay has none.
#[must_use]
pub fn too_big(packet: &[u8], mtu: u16, from: &OverlayLease, out: &mut [u8]) -> Option<usize> {
    let ip = Ip::parse(packet)?;
    if ip.is_v4 {
        answer_v4(&ip, packet, mtu, from.v4, out)
    } else {
        answer_v6(&ip, packet, mtu, from.v6, out)
    }
}

fn answer_v4(ip: &Ip<'_>, packet: &[u8], mtu: u16, from: Ipv4Addr, out: &mut [u8]) -> Option<usize> {
    let (source, destination) = ip.addresses.split_first_chunk::<4>()?;
    let [to, target] = [Ipv4Addr::from(*source), Ipv4Addr::from(*destination.first_chunk::<4>()?)];
    let is_error = ip.protocol == ICMP && matches!(packet.get(ip.header_len)?, 3 | 4 | 5 | 11 | 12);
    let is_one_host = |address: Ipv4Addr| address.octets() < [224, 0, 0, 0] && !address.is_unspecified();
    if is_error || ip.is_later_fragment() || !is_one_host(to) || !is_one_host(target) || to.is_loopback() {
        return None;
    }
    let header_len = V4_HEADER_BYTES + ICMP_HEADER_BYTES;
    let len = (header_len + packet.len()).min(V4_ANSWER_BYTES).min(out.len());
    let quote = packet.get(..len.checked_sub(header_len)?)?;
    if quote.len() < packet.len().min(ip.header_len + LEAST_QUOTE) {
        return None;
    }
    let (header, message) = out.get_mut(..len)?.split_at_mut_checked(V4_HEADER_BYTES)?;
    header.copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put(header, 2, short(len).to_be_bytes());
    put(header, 12, from.octets());
    put(header, 16, to.octets());
    let sum = checksum::finish(checksum::sum(header, 0));
    put(header, 10, sum.to_be_bytes());
    put(message, 0, [3, 4, 0, 0, 0, 0]);
    put(message, 6, mtu.to_be_bytes());
    message.get_mut(ICMP_HEADER_BYTES..)?.copy_from_slice(quote);
    let sum = checksum::finish(checksum::sum(message, 0));
    put(message, 2, sum.to_be_bytes());
    Some(len)
}

fn answer_v6(ip: &Ip<'_>, packet: &[u8], mtu: u16, from: Ipv6Addr, out: &mut [u8]) -> Option<usize> {
    let (source, destination) = ip.addresses.split_first_chunk::<16>()?;
    let [to, target] = [Ipv6Addr::from(*source), Ipv6Addr::from(*destination.first_chunk::<16>()?)];
    let is_one_host = |address: Ipv6Addr| !address.is_multicast() && !address.is_unspecified();
    if !is_one_host(to) || !is_one_host(target) || to.is_loopback() || !may_answer_v6(ip.protocol, packet) {
        return None;
    }
    let header_len = V6_HEADER_BYTES + ICMP_HEADER_BYTES;
    let len = (header_len + packet.len()).min(TOO_BIG_BYTES).min(out.len());
    let quote = packet.get(..len.checked_sub(header_len)?)?;
    if quote.len() < packet.len().min(V6_HEADER_BYTES + LEAST_QUOTE) {
        return None;
    }
    let (header, message) = out.get_mut(..len)?.split_at_mut_checked(V6_HEADER_BYTES)?;
    put(header, 0, [0x60, 0, 0, 0, 0, 0, ICMP_V6, HOP_LIMIT]);
    put(header, 4, short(message.len()).to_be_bytes());
    put(header, 8, from.octets());
    put(header, 24, to.octets());
    put(message, 0, [2, 0, 0, 0]);
    put(message, 4, u32::from(mtu).to_be_bytes());
    message.get_mut(ICMP_HEADER_BYTES..)?.copy_from_slice(quote);
    let length = u32::from(short(message.len()));
    let pseudo = checksum::pseudo_header(header.get(8..)?, ICMP_V6, length);
    let sum = checksum::finish(checksum::sum(message, pseudo));
    put(message, 2, sum.to_be_bytes());
    Some(len)
}

/// False for ICMPv6 errors and redirects, fragments after the first, and chains of headers that do not end.
fn may_answer_v6(mut protocol: u8, packet: &[u8]) -> bool {
    let mut at = V6_HEADER_BYTES;
    for _ in 0..MAX_EXTENSIONS {
        let Some([next, length, ..]) = packet.get(at..) else {
            return !V6_EXTENSIONS.contains(&protocol) && protocol != V6_FRAGMENT && protocol != ICMP_V6;
        };
        match protocol {
            ICMP_V6 => return *next >= 128 && *next != 137,
            V6_FRAGMENT if field(packet, at + 2) & 0xfff8 != 0 => return false,
            V6_FRAGMENT => at += 8,
            _ if V6_EXTENSIONS.contains(&protocol) => at += (usize::from(*length) + 1) * 8,
            _ => return true,
        }
        protocol = *next;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FROM: OverlayLease =
        OverlayLease { v4: Ipv4Addr::new(10, 7, 0, 1), v6: Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1) };

    fn v4(protocol: u8, destination: [u8; 4], fragment: u16, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let [f0, f1] = fragment.to_be_bytes();
        let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, f0, f1, 64, protocol, 0, 0, 10, 7, 0, 2];
        packet.extend_from_slice(&destination);
        packet.extend_from_slice(payload);
        packet
    }

    fn v6(next: u8, destination: &str, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
        packet.extend_from_slice(&"fd07::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(&destination.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(payload);
        packet
    }

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0u8; TOO_BIG_BYTES];
        too_big(packet, 1400, &FROM, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn the_sender_is_told_the_size_and_gets_its_packet_quoted() {
        let packet = v4(17, [10, 7, 0, 9], 0x4000, &[7; 1480]);
        let told = answer(&packet).unwrap();
        assert_eq!(told.len(), 576);
        assert_eq!((&told[12..16], &told[16..20]), (&[10u8, 7, 0, 1][..], &[10u8, 7, 0, 2][..]));
        assert_eq!((&told[20..22], field(&told, 26)), (&[3u8, 4][..], 1400));
        assert_eq!(told[28..], packet[..548]);
        assert!(checksum::is_good(checksum::sum(&told[..20], 0)));
        assert!(checksum::is_good(checksum::sum(&told[20..], 0)));

        let packet = v6(6, "fd07::9", &[7; 1460]);
        let told = answer(&packet).unwrap();
        assert_eq!(told.len(), 1280);
        assert_eq!((&told[40..42], field(&told, 46)), (&[2u8, 0][..], 1400));
        assert_eq!(told[48..], packet[..1232]);
        let ip = Ip::parse(&told).unwrap();
        let pseudo = checksum::pseudo_header(ip.addresses, 58, 1240);
        assert!(checksum::is_good(checksum::sum(&told[40..], pseudo)));
    }

    #[test]
    fn some_packets_are_never_answered() {
        let to = [10, 7, 0, 9];
        assert!(answer(&v4(1, to, 0, &[8; 1480])).is_some(), "an echo request is no error");
        assert!(answer(&v4(17, to, 0x2000, &[0; 1480])).is_some(), "a first fragment");
        for (why, packet) in [
            ("error", v4(1, to, 0, &[3; 1480])),
            ("time exceeded", v4(1, to, 0, &[11; 1480])),
            ("later fragment", v4(17, to, 0x2010, &[0; 1480])),
            ("multicast", v4(17, [224, 0, 0, 1], 0, &[0; 1480])),
            ("broadcast", v4(17, [255; 4], 0, &[0; 1480])),
            ("ICMPv6 error", v6(58, "fd07::9", &[1; 1480])),
            ("redirect", v6(58, "fd07::9", &[137; 1480])),
            ("multicast of IPv6", v6(17, "ff02::1", &[1; 1480])),
            ("later fragment of IPv6", v6(44, "fd07::9", &[17, 0, 1, 0, 0, 0, 0, 0, 0])),
            ("error behind options", v6(60, "fd07::9", &[58, 0, 1, 4, 0, 0, 0, 0, 1, 0])),
            ("endless options", v6(0, "fd07::9", &[0; 200])),
        ] {
            assert_eq!(answer(&packet), None, "{why}");
        }
        assert!(answer(&v6(44, "fd07::9", &[17, 0, 0, 1, 0, 0, 0, 0, 0])).is_some(), "a first fragment");
        assert!(answer(&v6(58, "fd07::9", &[128; 1480])).is_some(), "an echo request");
        let mut small = [0u8; 50];
        assert_eq!(too_big(&v4(17, to, 0, &[0; 1480]), 1400, &FROM, &mut small), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            is_v4 in any::<bool>(),
            room in 0usize..300,
        ) {
            let len = u16::try_from(bytes.len()).unwrap();
            if is_v4 && bytes.len() >= 20 {
                bytes[0] = 0x40 | bytes[0] & 15;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            } else if bytes.len() >= 40 {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            }
            let mut out = vec![0; room];
            let len = too_big(&bytes, 1280, &FROM, &mut out);
            prop_assert!(len.is_none_or(|len| len <= room));
        }
    }
}
