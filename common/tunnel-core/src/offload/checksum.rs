//! The internet checksum (RFC 1071, 1624), eight or more bytes at a time.
//!
//! A partial sum is a `u64` of words in memory order: one's complement sums do not care about byte order until the
//! end (RFC 1071, section 2, B), so nothing is swapped on the way. Partial sums come from [`sum`], [`word`] and
//! [`pseudo_header`], may be added up as plain integers, and end in [`fold`] or [`finish`].

/// Bytes that one step of the wide loop takes: four vectors of 128 bits.
const STEP: usize = 64;
/// Independent accumulators, one for each 32-bit word of a step.
const LANES: usize = STEP / 4;

/// Adds `bytes` to the partial sum `initial`; an odd last byte counts as if a zero followed.
///
/// Parts that are summed one after the other must have even lengths, but for the last.
#[must_use]
pub fn sum(bytes: &[u8], initial: u64) -> u64 {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let mut total = 0u64;
    if !steps.is_empty() {
        let mut lanes = [0u64; LANES];
        for step in steps {
            let (words, _) = step.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                // 2^32 words of 32 bits fit, which is more than a slice of 16 GiB has in one lane.
                *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
            }
        }
        total = lanes.iter().fold(0, |total, lane| add(total, *lane));
    }
    let (words, tail) = rest.as_chunks::<4>();
    for word in words {
        total = add(total, u64::from(u32::from_ne_bytes(*word)));
    }
    let last = match *tail {
        [] => 0,
        [a] => u32::from_ne_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
        [a, b, c, ..] => u32::from_ne_bytes([a, b, c, 0]),
    };
    add(add(total, u64::from(last)), initial)
}

/// One 16-bit field as a partial sum; `value` is the number the field stands for.
#[must_use]
pub fn word(value: u16) -> u64 {
    u64::from(value.to_be())
}

/// The pseudo header of TCP, UDP and ICMPv6 as a partial sum.
///
/// `addresses` is source and destination in a row, 8 bytes for IPv4 (RFC 9293, section 3.1) or 32 for IPv6
/// (RFC 8200, section 8.1); the rest of the two headers adds up to the same. `length_bytes` counts the transport's
/// header and payload.
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, length_bytes: u32) -> u64 {
    let fixed = word(u16::from(protocol)).wrapping_add(u64::from(length_bytes.to_be()));
    sum(addresses, fixed)
}

/// The 16 bits a partial sum comes to, as a number, not complemented.
#[must_use]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let [a, b, ..] = sum.to_le_bytes();
    // The low 16 bits, which are all that is left, hold a field in memory order.
    u16::from_be(u16::from_le_bytes([a, b]))
}

/// The checksum field for a partial sum, as a number; the field itself counted as zero.
#[must_use]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// True where a sum that includes the checksum field verifies.
#[must_use]
pub fn is_good(sum: u64) -> bool {
    fold(sum) == u16::MAX
}

/// The checksum field after one aligned 16-bit field it covers went from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(word(!checksum) + word(!old) + word(new))
}

/// Adds with the carry brought round, since 2^64 is 1 in this arithmetic.
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(u64::from(carry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    #[test]
    fn full_carries_come_round() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(finish(sum(&bytes, 0)), naive(&bytes));
        assert_eq!(fold(sum(&[0xff; 8], u64::MAX)), 0xffff);
        assert_eq!(fold(sum(&[1, 2], u64::MAX)), 0x0102);
    }

    proptest! {
        #[test]
        fn any_bytes_have_the_naive_checksum(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cut in 0usize..1000) {
            prop_assert_eq!(finish(sum(&bytes, 0)), naive(&bytes));
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len()));
            prop_assert_eq!(finish(sum(tail, sum(head, 0))), naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 2..100), new in any::<u16>()) {
            // RFC 1624 has one exception: a message of zeros alone, which no header is.
            bytes.push(1);
            let before = finish(sum(&bytes, 0));
            let old = u16::from_be_bytes([bytes[0], bytes[1]]);
            bytes[..2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), naive(&bytes));
        }
    }
}
