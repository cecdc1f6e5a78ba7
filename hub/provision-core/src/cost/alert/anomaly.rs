//! Days that cost much more than those before them.

use std::collections::BTreeMap;

use blueprint_common_types::Micros;

use crate::catalogue::Day;

/// Days that a day is compared with.
const DAYS: u32 = 7;

/// When a day is unusual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anomaly {
    /// It costs more than so many times the median of the seven days before it.
    pub times: u32,
    /// And more than this, in US dollars.
    pub floor: Micros,
}

impl Anomaly {
    /// Bounds of [`Self::times`].
    pub const TIMES: std::ops::RangeInclusive<u32> = 2..=100;

    /// The median that `today` goes beyond, where it is unusual among `days`. Nothing is where there are costs of fewer than
    /// seven days before it.
    #[must_use]
    pub(super) fn find(self, days: &BTreeMap<Day, Micros>, today: Day) -> Option<Micros> {
        let cost = |day: Day| days.get(&day).copied().unwrap_or_default();
        let first = days.keys().next()?;
        if *first > today.back(DAYS) {
            return None;
        }
        let mut before: Vec<Micros> = (1..=DAYS).map(|back| cost(today.back(back))).collect();
        before.sort();
        let median = before.get(before.len() / 2).copied()?;
        let is_unusual = cost(today) > median.times(self.times.into()) && cost(today) > self.floor;
        is_unusual.then_some(median)
    }
}
