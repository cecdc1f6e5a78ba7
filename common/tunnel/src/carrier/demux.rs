//! Tells WireGuard from QUIC on one UDP socket.

/// True for what can only be a WireGuard message: a type from 1 to 4 and three reserved zero bytes
/// (WireGuard white paper, section 5.4).
///
/// A QUIC packet never looks like that as long as its fixed bit `0x40` is set, which every version
/// known to us requires (RFC 9000, section 17) and RFC 9443 builds upon for sharing a port. A peer
/// may clear that bit only after we said that we accept it (RFC 9287): our endpoints never do.
pub fn is_wireguard(datagram: &[u8]) -> bool {
    matches!(datagram, [1..=4, 0, 0, 0, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_wireguard_are_told_by_their_first_four_bytes() {
        for kind in 1..=4 {
            assert!(is_wireguard(&[kind, 0, 0, 0]));
            assert!(is_wireguard(&[kind, 0, 0, 0, 7, 7]));
            assert!(!is_wireguard(&[kind, 0, 0]));
            assert!(!is_wireguard(&[kind, 0, 1, 0]));
        }
        assert!(!is_wireguard(&[]));
        assert!(!is_wireguard(&[0, 0, 0, 0]));
        assert!(!is_wireguard(&[5, 0, 0, 0]));
    }

    #[test]
    fn no_first_byte_with_the_fixed_bit_is_wireguard() {
        for first in 0..=u8::MAX {
            if first & 0x40 != 0 {
                assert!(!is_wireguard(&[first, 0, 0, 0]));
            }
        }
    }
}
