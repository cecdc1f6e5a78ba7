//! Days, for dates of prices.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::Timestamp;

/// A day of the calendar in UTC, as days since 1970-01-01. Prints as `2026-07-20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

/// A text is not a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a day: YYYY-MM-DD from 1970 to 9999 was expected")]
pub struct ParseDayError(String);

impl Day {
    /// 2026-11-21: day of what was written down by hand.
    pub(super) const FACTS: Self = Self(20_778);

    /// The day so many `days` before this one; the first there is where that is earlier.
    #[must_use]
    pub const fn back(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Days from this one to `later`; 0 where that is earlier.
    #[must_use]
    pub const fn days_until(self, later: Self) -> u32 {
        later.0.saturating_sub(self.0)
    }
}

impl From<Timestamp> for Day {
    fn from(time: Timestamp) -> Self {
        Self(u32::try_from(time.as_secs() / 86_400).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Timestamp::from_millis(u64::from(self.0).saturating_mul(86_400_000)).to_string();
        f.pad(text.get(..10).unwrap_or(&text))
    }
}

impl FromStr for Day {
    type Err = ParseDayError;

    fn from_str(text: &str) -> Result<Self, ParseDayError> {
        let wrong = || ParseDayError(text.chars().take(16).collect());
        let mut parts = text.splitn(3, '-').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { part.parse::<u32>().map_err(|_| wrong()) } else { Err(wrong()) }
        });
        let mut next = || parts.next().unwrap_or_else(|| Err(wrong()));
        let (year, month, day) = (next()?, next()?, next()?);
        if text.len() != 10 || !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return Err(wrong());
        }
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + u32::from(is_leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if !(1..=length).contains(&day) {
            return Err(wrong());
        }
        // Years begin in March, so that the leap day is the last of its year.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
        Ok(Self(days - 719_468))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_printed() {
        for (text, number) in
            [("1970-01-01", 0), ("1970-12-31", 364), ("2000-02-29", 11_016), ("2026-11-21", 20_778)]
        {
            let day: Day = text.parse().unwrap();
            assert_eq!((day.0, day.to_string().as_str()), (number, text));
        }
        for wrong in
            ["", "2026-11", "2026-13-01", "2026-02-29", "2026-00-10", "1969-12-31", "2026-1-01", "+026-01-01"]
        {
            assert!(wrong.parse::<Day>().is_err(), "{wrong}");
        }
        let day = |text: &str| text.parse::<Day>().unwrap();
        assert_eq!(day("2026-07-20").days_until(day("2026-11-21")), 124);
        assert_eq!(day("2026-11-21").days_until(day("2026-07-20")), 0);
    }
}
