//! Who has how many of something, and whose oldest goes first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Numbers, which only grow, by the site that has them.
#[derive(Debug, Default)]
pub(super) struct Share {
    by_site: BTreeMap<IpAddr, BTreeSet<u64>>,
    /// Of each site how many it has and the oldest of them; the last is the one with most, and of equals the one
    /// whose oldest is older.
    sizes: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
    len: usize,
}

impl Share {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn held_by(&self, site: IpAddr) -> usize {
        self.by_site.get(&site).map_or(0, BTreeSet::len)
    }

    pub(super) fn add(&mut self, site: IpAddr, number: u64) {
        self.change(site, |numbers| numbers.insert(number));
    }

    pub(super) fn remove(&mut self, site: IpAddr, number: u64) {
        self.change(site, |numbers| numbers.remove(&number));
    }

    /// The oldest number of the site that has most.
    pub(super) fn oldest_of_largest(&self) -> Option<u64> {
        self.sizes.last().map(|(_, Reverse(oldest), _)| *oldest)
    }

    fn change(&mut self, site: IpAddr, how: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let numbers = self.by_site.entry(site).or_default();
        if let Some(oldest) = numbers.first() {
            self.sizes.remove(&(numbers.len(), Reverse(*oldest), site));
        }
        let before = numbers.len();
        how(numbers);
        self.len = self.len.saturating_sub(before).saturating_add(numbers.len());
        match numbers.first() {
            Some(oldest) => drop(self.sizes.insert((numbers.len(), Reverse(*oldest), site))),
            None => drop(self.by_site.remove(&site)),
        }
    }
}
