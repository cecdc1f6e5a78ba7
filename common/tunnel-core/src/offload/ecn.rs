//! Explicit congestion notification across the tunnel (RFC 3168, RFC 6040).
//!
//! On the way in, the outer header gets [`ecn_of`] the inner packet (RFC 6040, section 4.1, normal mode). On the way
//! out, an outer CE is carried over by [`mark_ce`] (section 4.2).
//!
//! Deviation: an outer ECT(1) is not copied to an inner ECT(0) packet; no queue in use today marks that way.

use super::checksum;
use super::ip::{field, put};

/// Not ECN-capable.
pub const ECN_NOT_CAPABLE: u8 = 0b00;
/// Congestion experienced; also the mask of the two bits.
pub const ECN_CE: u8 = 0b11;

/// The ECN bits of an IP packet; zero (not ECN-capable) for what is none.
#[must_use]
pub fn ecn_of(packet: &[u8]) -> u8 {
    match *packet {
        [first, second, ..] if first >> 4 == 4 => second & ECN_CE,
        [first, second, ..] if first >> 4 == 6 => (second >> 4) & ECN_CE,
        _ => ECN_NOT_CAPABLE,
    }
}

/// Marks an IP packet with CE and mends an IPv4 header checksum.
///
/// False, and nothing changed, where the packet is not ECN-capable: it is then to be dropped (RFC 6040, figure 4).
#[must_use]
pub fn mark_ce(packet: &mut [u8]) -> bool {
    if ecn_of(packet) == ECN_NOT_CAPABLE {
        return false;
    }
    let old = field(packet, 0);
    let is_v4 = old >> 12 == 4;
    let new = old | u16::from(ECN_CE) << if is_v4 { 0 } else { 4 };
    put(packet, 0, new.to_be_bytes());
    if is_v4 && new != old {
        let mended = checksum::update(field(packet, 10), old, new);
        put(packet, 10, mended.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ce_is_set_only_on_capable_packets() {
        for (tos, capable) in [(0x00, false), (0xb8, false), (0x01, true), (0xba, true), (0x03, true)] {
            let mut v4 = vec![0x45, tos, 0, 20, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2];
            let sum = checksum::finish(checksum::sum(&v4, 0));
            put(&mut v4, 10, sum.to_be_bytes());
            let before = v4.clone();
            assert_eq!(mark_ce(&mut v4), capable);
            assert!(checksum::is_good(checksum::sum(&v4, 0)), "tos {tos}");
            assert_eq!(ecn_of(&v4), if capable { ECN_CE } else { ECN_NOT_CAPABLE });
            assert_eq!(v4[1] >> 2, before[1] >> 2);
            assert!(capable || v4 == before);

            let mut v6 = vec![0x60 | tos >> 4, (tos & 15) << 4 | 0x0a, 0xbc, 0xde];
            let before = v6.clone();
            assert_eq!(mark_ce(&mut v6), capable);
            assert_eq!(ecn_of(&v6), if capable { ECN_CE } else { ECN_NOT_CAPABLE });
            assert_eq!((v6[0], v6[1] & 0xcf, &v6[2..]), (before[0], before[1] & 0xcf, &before[2..]));
        }
        assert!(!mark_ce(&mut []) && !mark_ce(&mut [0x4f]) && !mark_ce(&mut [0xff, 0xff]));
        assert!(mark_ce(&mut [0x45, 1]), "a stump is marked without panic");
    }
}
