//! Internet checksums over whole words, instead of smoltcp's, which sum two bytes at a time.
//!
//! The sum of 16-bit words with end-around carry is the same over 32-bit words that are folded at the end,
//! and in either byte order (RFC 1071, section 2); eight independent sums let the compiler use vectors.

use crate::segment::{Ip, Protocol};

/// Sums `data`; a tail of fewer than four bytes counts as if zeros followed it.
///
/// Cannot overflow below 2^32 words.
pub(crate) fn sum(data: &[u8]) -> u64 {
    let (blocks, rest) = data.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, tail) = rest.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    let words = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word)));
    lanes.into_iter().chain(words).sum()
}

/// Folds a sum to 16 bits, in the byte order of the data.
pub(crate) fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// True where the checksums of the IPv4 header and of TCP, UDP or ICMP are right; other protocols are not looked at.
pub(crate) fn is_intact(packet: &[u8], ip: &Ip) -> bool {
    if ip.is_v4() && packet.get(..ip.start).is_none_or(|header| fold(sum(header)) != 0xffff) {
        return false;
    }
    let Some(content) = packet.get(ip.start..ip.end) else { return false };
    match ip.protocol {
        Protocol::Tcp => fold(sum(content) + pseudo(packet, ip)) == 0xffff,
        // Over IPv4 a UDP sender may leave it out (RFC 768); over IPv6 it may not (RFC 8200, section 8.1).
        Protocol::Udp => {
            let is_absent = content.get(6..8) == Some(&[0, 0]);
            if is_absent { ip.is_v4() } else { fold(sum(content) + pseudo(packet, ip)) == 0xffff }
        }
        Protocol::IcmpV4 => fold(sum(content)) == 0xffff,
        Protocol::IcmpV6 => fold(sum(content) + pseudo(packet, ip)) == 0xffff,
        Protocol::Other => true,
    }
}

/// Writes the checksums of a packet that is otherwise complete.
pub(crate) fn fill(packet: &mut [u8]) {
    let Some(ip) = Ip::parse(packet) else { return };
    if ip.is_v4() {
        put(packet, 10, 0);
        let header = packet.get(..ip.start).map_or(0, sum);
        put(packet, 10, !fold(header));
    }
    let (at, with_pseudo) = match ip.protocol {
        Protocol::Tcp => (16, true),
        Protocol::Udp => (6, true),
        Protocol::IcmpV4 => (2, false),
        Protocol::IcmpV6 => (2, true),
        Protocol::Other => return,
    };
    put(packet, ip.start + at, 0);
    let content = packet.get(ip.start..ip.end).map_or(0, sum);
    let value = !fold(content + if with_pseudo { pseudo(packet, &ip) } else { 0 });
    // Zero would say that there is none (RFC 768).
    let value = if value == 0 && ip.protocol == Protocol::Udp { u16::MAX } else { value };
    put(packet, ip.start + at, value);
}

/// Sum of the pseudo-header.
fn pseudo(packet: &[u8], ip: &Ip) -> u64 {
    let addresses = if ip.is_v4() { packet.get(12..20) } else { packet.get(8..40) };
    let [_, .., high, low] = (ip.end - ip.start).to_be_bytes();
    addresses.map_or(0, sum) + u64::from(u32::from_ne_bytes([0, ip.protocol_number, high, low]))
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    if let Some(place) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *place = value.to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 as it is written.
    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn any_length_sums_as_the_rfc_says() {
        let data: Vec<u8> = (0..3000_u32).map(|n| (n * n).to_le_bytes()[1] | 1).collect();
        for length in (0..200).chain([1380, 1381, 1382, 1383, 2999]) {
            let part = &data[..length];
            assert_eq!(u16::from_be_bytes(fold(sum(part)).to_ne_bytes()), naive(part), "{length}");
        }
        assert_eq!(u16::from_be_bytes(fold(sum(&[0xff; 65_535])).to_ne_bytes()), naive(&[0xff; 65_535]));
    }
}
