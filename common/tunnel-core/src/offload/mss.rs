//! The largest segment a TCP handshake announces, lowered to what fits the tunnel (RFC 9293, section 3.7.1).

use super::checksum;
use super::ip::{Ip, TCP, TCP_CHECKSUM_AT, TCP_HEADER_BYTES, field, put};

const SYN: u8 = 0x02;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the MSS option of a SYN or SYN-ACK to `mtu` less the 40 (IPv4) or 60 bytes (IPv6) of headers.
///
/// True where the packet was changed; its checksum is mended by the difference, so that a wrong one stays wrong.
/// A SYN without the option is left alone: its absence already means 536 or 1220 bytes.
#[must_use]
pub fn clamp_mss(packet: &mut [u8], mtu: u16) -> bool {
    clamp(packet, mtu).is_some()
}

fn clamp(packet: &mut [u8], mtu: u16) -> Option<()> {
    let ip = Ip::parse(packet).filter(|ip| ip.protocol == TCP && !ip.is_later_fragment())?;
    let limit = mtu.saturating_sub(if ip.is_v4 { 40 } else { 60 });
    let tcp = packet.get_mut(ip.header_len..)?;
    let header: &[u8; TCP_HEADER_BYTES] = tcp.first_chunk()?;
    let [_, _, _, _, _, _, _, _, _, _, _, _, offset, flags, ..] = *header;
    if flags & SYN == 0 {
        return None;
    }
    let at = mss_at(tcp.get(TCP_HEADER_BYTES..usize::from(offset >> 4) * 4)?)? + TCP_HEADER_BYTES;
    let old = field(tcp, at);
    if old <= limit {
        return None;
    }
    put(tcp, at, limit.to_be_bytes());
    // At an odd place the two bytes belong to two words, which is the same sum with the bytes swapped.
    let seen = |value: u16| if at.is_multiple_of(2) { value } else { value.swap_bytes() };
    let mended = checksum::update(field(tcp, TCP_CHECKSUM_AT), seen(old), seen(limit));
    put(tcp, TCP_CHECKSUM_AT, mended.to_be_bytes());
    Some(())
}

/// Where the value of the MSS option is, in bytes from the options' start.
fn mss_at(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match options.get(at..)? {
            [END_OF_OPTIONS, ..] => return None,
            [NO_OPERATION, ..] => at += 1,
            [MAXIMUM_SEGMENT_SIZE, 4, _, _, ..] => return Some(at + 2),
            [_, length, ..] if *length >= 2 => at += usize::from(*length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn syn(v4: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let tcp_len = TCP_HEADER_BYTES + options.len();
        let mut packet = if v4 {
            let total = u8::try_from(20 + tcp_len).unwrap();
            vec![0x45, 0, 0, total, 0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, u8::try_from(tcp_len).unwrap(), TCP, 64];
            header.extend_from_slice(&[0xfd; 32]);
            header
        };
        let at = packet.len();
        packet.extend_from_slice(&[0x12, 0x34, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0]);
        packet.extend_from_slice(&[u8::try_from(tcp_len / 4).unwrap() << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend_from_slice(options);
        let sum = checksum::finish(total(&packet));
        put(&mut packet, at + TCP_CHECKSUM_AT, sum.to_be_bytes());
        packet
    }

    fn total(packet: &[u8]) -> u64 {
        let ip = Ip::parse(packet).unwrap();
        let tcp = &packet[ip.header_len..];
        let length = u32::try_from(tcp.len()).unwrap();
        checksum::sum(tcp, checksum::pseudo_header(ip.addresses, TCP, length))
    }

    #[test]
    fn a_syn_is_lowered_wherever_the_option_is() {
        let even = [2, 4, 0x05, 0xb4, 1, 1, 4, 2];
        let odd = [1, 2, 4, 0x05, 0xb4, 1, 1, 0];
        let late = [3, 3, 7, 2, 4, 0x05, 0xb4, 0];
        for (v4, limit) in [(true, 1380u16), (false, 1360)] {
            for (options, at) in [(even, 2), (odd, 3), (late, 5)] {
                for flags in [0x02, 0x12] {
                    let mut packet = syn(v4, flags, &options);
                    assert!(clamp_mss(&mut packet, 1420));
                    let options = packet.len() - 8;
                    assert_eq!(field(&packet, options + at), limit);
                    assert!(checksum::is_good(total(&packet)));
                    assert!(!clamp_mss(&mut packet, 1420), "low enough now");
                }
            }
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        let mss = [2, 4, 0x05, 0xb4];
        assert!(!clamp_mss(&mut syn(true, 0x10, &mss), 1420), "no SYN");
        assert!(!clamp_mss(&mut syn(true, 0x02, &[]), 1420), "no option");
        assert!(!clamp_mss(&mut syn(true, 0x02, &[0, 2, 4, 255]), 1420), "after the end");
        assert!(!clamp_mss(&mut syn(true, 0x02, &[3, 0, 2, 4]), 1420), "an option without length");
        assert!(!clamp_mss(&mut syn(true, 0x02, &mss), 1500), "it fits");
        let mut wrong = syn(true, 0x02, &mss);
        wrong[20 + TCP_CHECKSUM_AT] ^= 0x40;
        assert!(clamp_mss(&mut wrong, 1420));
        assert!(!checksum::is_good(total(&wrong)), "a wrong checksum stays wrong");
    }

    proptest! {
        #[test]
        fn any_options_are_read_without_panic(options in proptest::collection::vec(any::<u8>(), 0..10), mtu in any::<u16>()) {
            let mut options = options;
            options.resize(options.len().next_multiple_of(4), 0);
            let mut packet = syn(false, 0x02, &options);
            let _ = clamp_mss(&mut packet, mtu);
            prop_assert!(checksum::is_good(total(&packet)));
        }

        #[test]
        fn any_bytes_are_taken_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), mtu in any::<u16>()) {
            let _ = clamp_mss(&mut bytes, mtu);
        }
    }
}
