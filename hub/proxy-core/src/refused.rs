//! Refusals on their way into the audit log: counted for a while, then a bounded number of rows.
//!
//! A flood of refused requests costs a few rows a minute, whatever it sends and from wherever: rows are
//! made of what is refused, by which rule and from which network, and what finds no room is counted together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use blueprint_common_types::ServiceKey;

/// Rows of one round.
pub const MAX_ROWS: usize = 16;

/// Different refusals counted apart in one round; the most frequent become rows of their own.
const MAX_COUNTED: usize = 1024;

/// What one row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedBy {
    /// The service that was asked for, where that is known.
    pub service: Option<ServiceKey>,
    /// The refusal's code.
    pub code: &'static str,
    /// The network that asked; `None` for several, and where nobody proved to come from one (datagrams).
    pub source: Option<IpAddr>,
}

/// What one row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// What it is about.
    pub by: RefusedBy,
    /// How many requests.
    pub count: u64,
    /// Public name of what the credential of the last of them stands on, where one was recognised.
    pub identity: Option<String>,
}

/// The refusals of one round.
#[derive(Debug, Default)]
pub struct RefusedTable {
    counted: BTreeMap<RefusedBy, (u64, Option<String>)>,
}

impl RefusedTable {
    /// Counts one refusal.
    pub fn add(&mut self, by: RefusedBy, identity: Option<&str>) {
        let (count, last) = self.counter(by);
        *count = count.saturating_add(1);
        if let Some(identity) = identity
            && last.as_deref() != Some(identity)
        {
            *last = Some(identity.to_owned());
        }
    }

    /// Counts rows of an earlier round once more: they were not kept.
    pub fn put_back(&mut self, rows: impl IntoIterator<Item = RefusedRow>) {
        for RefusedRow { by, count, identity } in rows {
            let (sum, last) = self.counter(by);
            *sum = sum.saturating_add(count);
            // A later refusal may have named its own.
            if last.is_none() {
                *last = identity;
            }
        }
    }

    /// The count of what the row is about, or of its code where there is no room.
    fn counter(&mut self, by: RefusedBy) -> &mut (u64, Option<String>) {
        let is_full = self.counted.len() >= MAX_COUNTED && !self.counted.contains_key(&by);
        let by = if is_full { RefusedBy { service: None, source: None, ..by } } else { by };
        self.counted.entry(by).or_default()
    }

    /// Ends the round: at most [`MAX_ROWS`] rows and one per code, which together count every refusal.
    pub fn take(&mut self) -> Vec<RefusedRow> {
        let mut rows: Vec<RefusedRow> = std::mem::take(&mut self.counted)
            .into_iter()
            .map(|(by, (count, identity))| RefusedRow { by, count, identity })
            .collect();
        if rows.len() <= MAX_ROWS {
            return rows;
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        let mut rest: BTreeMap<&'static str, u64> = BTreeMap::new();
        for row in rows.drain(MAX_ROWS..) {
            let count = rest.entry(row.by.code).or_default();
            *count = count.saturating_add(row.count);
        }
        let together = rest.into_iter().map(|(code, count)| RefusedRow {
            by: RefusedBy { service: None, code, source: None },
            count,
            identity: None,
        });
        rows.extend(together);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(number: u32, code: &'static str) -> RefusedBy {
        RefusedBy { service: None, code, source: Some(IpAddr::from(number.to_be_bytes())) }
    }

    #[test]
    fn a_flood_from_everywhere_makes_a_bounded_number_of_rows_and_loses_no_count() {
        let mut table = RefusedTable::default();
        for number in 0..100_000 {
            table.add(by(number, "rule_refused"), None);
            table.add(by(7, "rule_refused"), Some("key"));
        }
        assert!(table.counted.len() <= MAX_COUNTED + 1);
        let rows = table.take();
        assert!(rows.len() <= MAX_ROWS + 1, "{}", rows.len());
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 200_000);
        let seven = rows.iter().find(|row| row.by == by(7, "rule_refused")).unwrap();
        assert_eq!((seven.count, seven.identity.as_deref()), (100_001, Some("key")));
        assert!(table.take().is_empty());
    }

    #[test]
    fn rows_that_could_not_be_kept_come_again_with_what_was_refused_since() {
        let mut table = RefusedTable::default();
        table.add(by(1, "rule_refused"), Some("early"));
        table.add(by(2, "rule_refused"), Some("early"));
        let rows = table.take();
        table.add(by(1, "rule_refused"), Some("late"));
        table.put_back(rows);
        let row = |number, count, last: &str| {
            let by = by(number, "rule_refused");
            RefusedRow { by, count, identity: Some(last.to_owned()) }
        };
        assert_eq!(table.take(), [row(1, 2, "late"), row(2, 1, "early")]);
        // For as long as the store fails: as much as fits, and every count.
        for round in 0..10 {
            for number in 0..1000 {
                table.add(by(round * 1000 + number, "rule_refused"), None);
            }
            let rows = table.take();
            table.put_back(rows);
        }
        assert!(table.counted.len() <= MAX_COUNTED + 1);
        assert_eq!(table.take().iter().map(|row| row.count).sum::<u64>(), 10_000);
    }
}
