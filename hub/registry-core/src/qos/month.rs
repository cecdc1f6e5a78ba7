//! Months of UTC.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::Timestamp;
use serde::{Serialize, Serializer};

const DAY_MILLIS: u64 = 86_400_000;

/// A text is no month.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no month: one such as 2026-10 was expected, from 1970-01 to 9999-12")]
pub struct ParseMonthError(String);

/// A month of the Gregorian calendar, from 1970-01 to 9999-12. Its text is such as `2026-10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    year: u16,
    /// 1 to 12.
    month: u8,
}

impl Month {
    /// The month that holds `at`; the last there is for what is later.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        let (mut low, mut high) = (0u32, (9999 - 1970) * 12 + 11);
        while low < high {
            let middle = high - (high - low) / 2;
            if Self::number(middle).start() <= at { low = middle } else { high = middle - 1 }
        }
        Self::number(low)
    }

    /// The month so many months after 1970-01.
    fn number(number: u32) -> Self {
        let year = u16::try_from(1970 + number / 12).unwrap_or(9999);
        Self { year, month: u8::try_from(number % 12 + 1).unwrap_or(1) }
    }

    /// Its first moment.
    #[must_use]
    pub fn start(self) -> Timestamp {
        // Days before the first of March of year 0 are none: January and February belong to the year before.
        let (year, month) = (u64::from(self.year), u64::from(self.month));
        let year = if month > 2 { year } else { year - 1 };
        let of_year = (153 * ((month + 9) % 12) + 2) / 5;
        let days = year * 365 + year / 4 - year / 100 + year / 400 + of_year;
        // 1970-01-01 is 719 468 days after that first of March.
        Timestamp::from_millis((days - 719_468) * DAY_MILLIS)
    }

    /// The first moment after it.
    #[must_use]
    pub fn end(self) -> Timestamp {
        let next = match self.month {
            12 => Self { year: self.year.saturating_add(1), month: 1 },
            month => Self { month: month + 1, ..self },
        };
        next.start()
    }

    /// Its days: the number, the first moment, and the first moment after.
    pub fn days(self) -> impl Iterator<Item = (u64, Timestamp, Timestamp)> {
        let start = self.start().as_millis();
        let count = (self.end().as_millis() - start) / DAY_MILLIS;
        let at = move |day: u64| Timestamp::from_millis(start + day * DAY_MILLIS);
        (0..count).map(move |day| (day + 1, at(day), at(day + 1)))
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = ParseMonthError;

    fn from_str(text: &str) -> Result<Self, ParseMonthError> {
        let parse = || {
            let (year, month) = text.split_once('-')?;
            let is_digits =
                |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
            if !is_digits(year, 4) || !is_digits(month, 2) {
                return None;
            }
            let (year, month) = (year.parse().ok()?, month.parse().ok()?);
            ((1970..=9999).contains(&year) && (1..=12).contains(&month)).then_some(Self { year, month })
        };
        parse().ok_or_else(|| ParseMonthError(text.chars().take(32).collect()))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
