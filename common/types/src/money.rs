//! Amounts of money, exact.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Millionths of a unit of some currency; where nothing else is said, of a US dollar. Never negative.
///
/// Prices per hour are small and are added up over months, so they are whole numbers: sums of floating-point
/// numbers would not be what the cloud's invoice says. Prints with at least two decimals and as many as are needed:
/// `0.05`, `0.0416`, `12.00`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(u64);

/// A text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount: digits with at most six decimals, such as 0.05, were expected")]
pub struct ParseMicrosError(String);

impl Micros {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Takes millionths.
    #[must_use]
    pub const fn new(micros: u64) -> Self {
        Self(micros)
    }

    /// Millionths.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This amount in whole hundredths, rounded up.
    #[must_use]
    pub const fn cents_up(self) -> Self {
        Self(self.0.div_ceil(10_000).saturating_mul(10_000))
    }

    /// The sum; stops at the end of the range, which no bill reaches.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of this amount; zero where `other` is more.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This amount `count` times; stops at the end of the range.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// `numerator / denominator` of this amount, rounded up: an estimate must not be below the bill. All of it where
    /// `denominator` is zero.
    #[must_use]
    pub fn share(self, numerator: u64, denominator: u64) -> Self {
        if denominator == 0 {
            return self;
        }
        let product = u128::from(self.0) * u128::from(numerator);
        Self(u64::try_from(product.div_ceil(u128::from(denominator))).unwrap_or(u64::MAX))
    }
}

impl std::iter::Sum for Micros {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let short = text.trim_end_matches('0');
        let decimals = short.split('.').next_back().map_or(0, str::len);
        f.pad(text.get(..short.len() + 2_usize.saturating_sub(decimals)).unwrap_or(&text))
    }
}

impl FromStr for Micros {
    type Err = ParseMicrosError;

    fn from_str(text: &str) -> Result<Self, ParseMicrosError> {
        let wrong = || ParseMicrosError(text.chars().take(32).collect());
        let (units, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let is_amount = !units.is_empty()
            && digits(units)
            && digits(decimals)
            && decimals.len() <= 6
            && !text.ends_with('.');
        if !is_amount {
            return Err(wrong());
        }
        let units: u64 = units.parse().map_err(|_| wrong())?;
        let decimals: u64 = format!("{decimals:0<6}").parse().map_err(|_| wrong())?;
        units.checked_mul(1_000_000).and_then(|whole| whole.checked_add(decimals)).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_and_read_exactly() {
        for (micros, text) in [
            (0, "0.00"),
            (50_000, "0.05"),
            (41_600, "0.0416"),
            (4_500, "0.0045"),
            (12_000_000, "12.00"),
            (1_234_567, "1.234567"),
            (u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(Micros::new(micros).to_string(), text);
            assert_eq!(text.parse::<Micros>().unwrap(), Micros::new(micros), "{text}");
        }
        assert_eq!("3".parse::<Micros>().unwrap(), Micros::new(3_000_000));
        for wrong in
            ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.1234567", "1,5", "18446744073709.551616", "NaN"]
        {
            assert!(wrong.parse::<Micros>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_share_is_rounded_up() {
        assert_eq!(Micros::new(10).share(1, 3), Micros::new(4));
        assert_eq!(Micros::new(171_650_010).cents_up().to_string(), "171.66");
        assert_eq!(Micros::new(10).share(3, 3), Micros::new(10));
        assert_eq!(Micros::new(u64::MAX).share(2, 1), Micros::new(u64::MAX));
    }
}
