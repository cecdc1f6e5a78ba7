//! A seeded generator: SHA-256 of seed and counter. Not on the packet path, so its speed does not matter.

use std::time::Duration;

use sha2::{Digest, Sha256};

/// Numbers that a stranger cannot predict from those it has seen, and a test can repeat.
pub(crate) struct Rng {
    seed: [u8; 32],
    counter: u64,
}

impl Rng {
    pub(crate) const fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// 32 fresh bytes.
    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        self.counter = self.counter.wrapping_add(1);
        Sha256::new_with_prefix(self.seed).chain_update(self.counter.to_le_bytes()).finalize().into()
    }

    pub(crate) fn u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// A duration from `least` up to and without `least + spread`, in whole milliseconds.
    pub(crate) fn between(&mut self, least: Duration, spread: Duration) -> Duration {
        let millis = u32::try_from(spread.as_millis()).unwrap_or(u32::MAX).max(1);
        least + Duration::from_millis(u64::from(self.u32() % millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_stays_in_range() {
        let (mut a, mut b) = (Rng::new([7; 32]), Rng::new([7; 32]));
        let (least, spread) = (Duration::from_secs(1), Duration::from_secs(1));
        for _ in 0..100 {
            let drawn = a.between(least, spread);
            assert_eq!(drawn, b.between(least, spread));
            assert!(drawn >= least && drawn < least + spread);
        }
        assert_ne!(a.bytes(), a.bytes());
    }
}
