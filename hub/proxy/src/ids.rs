//! Ids of requests that bring none.

use std::sync::atomic::{AtomicU64, Ordering};

/// Makes ids: 64 random bits of this start of the hub, then a number that comes once in it, disguised.
///
/// The system is asked for randomness once, not for each request. An id is a name in logs and no secret.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: u64,
    seed: u64,
    next: AtomicU64,
}

/// 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId([u8; 32]);

impl RequestIds {
    pub(crate) fn new() -> Self {
        let (mut prefix, mut seed) = ([0u8; 8], [0u8; 8]);
        // Without randomness ids repeat from start to start, which harms nothing but the reading of logs.
        let _ = blueprint_common_types::fill_random(&mut prefix);
        let _ = blueprint_common_types::fill_random(&mut seed);
        Self { prefix: u64::from_le_bytes(prefix), seed: u64::from_le_bytes(seed), next: AtomicU64::new(0) }
    }

    /// One that this hub has not made before.
    pub(crate) fn fresh(&self) -> RequestId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut digits = [0u8; 32];
        let halves = [self.prefix, mix(self.seed.wrapping_add(number))];
        let bytes = halves.into_iter().flat_map(u64::to_be_bytes);
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        RequestId(digits)
    }
}

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const fn digit(value: u8) -> u8 {
    if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_add(value).wrapping_sub(10) }
}

/// The finalizer of Steele, Lea and Flood (splitmix64): every number becomes another one, no two the same.
pub(crate) const fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_id_comes_twice() {
        let (one, other) = (RequestIds::new(), RequestIds::new());
        let ids: BTreeSet<_> = (0..5000).flat_map(|_| [one.fresh(), other.fresh()]).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.as_str().len() == 32));
        assert!(ids.iter().all(|id| id.as_str().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))));
    }
}
