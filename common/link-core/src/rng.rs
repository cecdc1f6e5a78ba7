//! Seeded randomness for jitter; nothing here is fit for secrets.

use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014): small, seedable, and even enough to spread timers.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts the sequence that belongs to `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `base` times an even pick of `low_permille..=high_permille` thousandths; saturates.
    pub(crate) fn scale(&mut self, base: Duration, low_permille: u32, high_permille: u32) -> Duration {
        let width = u64::from(high_permille.saturating_sub(low_permille)) + 1;
        // The remainder is below 2^32 because both bounds are `u32`.
        let pick = u32::try_from(self.next() % width).unwrap_or(0);
        base.saturating_mul(low_permille.saturating_add(pick)) / 1000
    }
}
