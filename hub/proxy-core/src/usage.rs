//! What each service and each key has used, in sums that bills can be made of.
//!
//! Sums are exact. What is bounded is how many keys and services are told apart: what comes when the table
//! is full is counted under [`OTHER`], so that nothing is lost from the total.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::ServiceKey;

/// Services told apart.
pub const MAX_SERVICES: usize = 1024;

/// Credentials told apart, of all services together: keys, and not the tokens that are made from them.
pub const MAX_KEYS: usize = 4096;

/// Name of what found no room of its own.
pub const OTHER: &str = "other";

/// Longest name of a credential, in characters.
const MAX_NAME: usize = 64;

/// What was used since counting began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Requests that a service answered.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Bytes of bodies from clients.
    pub bytes_in: u64,
    /// Bytes of bodies to clients.
    pub bytes_out: u64,
    /// Time during which requests were open, added up.
    pub open: Duration,
}

impl Used {
    /// Adds what one request used.
    pub fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.refused = self.refused.saturating_add(more.refused);
        self.bytes_in = self.bytes_in.saturating_add(more.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(more.bytes_out);
        self.open = self.open.saturating_add(more.open);
    }
}

/// What clients do at the hub now, and what was refused since it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clients {
    /// Open connections.
    pub connections: u64,
    /// Requests being answered.
    pub requests: u64,
    /// Refused requests by code.
    pub refused: BTreeMap<&'static str, u64>,
}

/// One service: its sum, and the sums of the credentials that called it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceUsage {
    /// Everything.
    pub total: Used,
    /// By the public name of what the credential stands on
    /// ([`Identity::root_id`](crate::identity::Identity::root_id)); [`OTHER`] for those that found no room.
    pub by_key: BTreeMap<String, Used>,
}

impl ServiceUsage {
    /// Adds to the sum of one credential; `keys` is how many are told apart.
    fn add_to_key(&mut self, key: &str, used: &Used, keys: &mut usize) {
        // It is known by what is kept of it.
        let key = key.char_indices().nth(MAX_NAME).and_then(|(end, _)| key.get(..end)).unwrap_or(key);
        if let Some(known) = self.by_key.get_mut(key) {
            return known.add(used);
        }
        let name = if *keys < MAX_KEYS {
            *keys = keys.saturating_add(1);
            key
        } else {
            OTHER
        };
        self.by_key.entry(name.to_owned()).or_default().add(used);
    }
}

/// One sum, to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSum {
    /// Whose; `None` for what found no room of its own.
    pub service: Option<ServiceKey>,
    /// Of which credential; `None` for the sum of the service.
    pub key: Option<String>,
    /// The sum.
    pub used: Used,
}

/// The sums of all services.
#[derive(Debug, Default)]
pub struct UsageTable {
    services: BTreeMap<ServiceKey, ServiceUsage>,
    other: Used,
    keys: usize,
    /// Whose sums changed since they were taken last.
    changed: BTreeSet<Option<ServiceKey>>,
}

impl UsageTable {
    /// Adds what one request used; `key` is the public name of what its credential
    /// stands on, where one was shown.
    ///
    /// `service` has to be one that exists: its name is not the client's to invent.
    pub fn add(&mut self, service: ServiceKey, key: Option<&str>, used: &Used) {
        if self.services.len() >= MAX_SERVICES && !self.services.contains_key(&service) {
            self.changed.insert(None);
            return self.other.add(used);
        }
        self.changed.insert(Some(service));
        let usage = self.services.entry(service).or_default();
        usage.total.add(used);
        if let Some(key) = key {
            usage.add_to_key(key, used, &mut self.keys);
        }
    }

    /// Adds sums that were kept.
    pub fn restore(&mut self, sums: impl IntoIterator<Item = UsageSum>) {
        for UsageSum { service, key, used } in sums {
            match (service, key) {
                (Some(service), None) => self.add(service, None, &used),
                (Some(service), Some(key)) => {
                    // Where there is none, the sum of its service, which stands before it, found no room.
                    if let Some(usage) = self.services.get_mut(&service) {
                        usage.add_to_key(&key, &used, &mut self.keys);
                    }
                }
                (None, _) => {
                    self.changed.insert(None);
                    self.other.add(&used);
                }
            }
        }
    }

    /// The sums of every service that changed since the last call, in which that of the service stands first.
    pub fn take_changed(&mut self) -> Vec<UsageSum> {
        let mut sums = Vec::new();
        for service in std::mem::take(&mut self.changed) {
            let Some(key) = service else {
                sums.push(UsageSum { service, key: None, used: self.other });
                continue;
            };
            let Some(usage) = self.services.get(&key) else { continue };
            sums.push(UsageSum { service, key: None, used: usage.total });
            let of_keys = usage.by_key.iter();
            sums.extend(of_keys.map(|(key, used)| UsageSum { service, key: Some(key.clone()), used: *used }));
        }
        sums
    }

    /// Gives these once more at the next [`Self::take_changed`]: they were not kept.
    pub fn keep_changed(&mut self, sums: &[UsageSum]) {
        self.changed.extend(sums.iter().map(|sum| sum.service));
    }

    /// What one service has used.
    #[must_use]
    pub fn service(&self, service: ServiceKey) -> Option<&ServiceUsage> {
        self.services.get(&service)
    }

    /// Every service with its sum, and what found no room under `None`.
    pub fn totals(&self) -> impl Iterator<Item = (Option<ServiceKey>, &Used)> {
        let other = (self.other != Used::default()).then_some((None, &self.other));
        self.services.iter().map(|(service, usage)| (Some(*service), &usage.total)).chain(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_and_given_back_is_the_same_table() {
        let (one, two) = (ServiceKey { blueprint: 1, service: 1 }, ServiceKey { blueprint: 1, service: 2 });
        let used = Used { requests: 1, bytes_out: 7, ..Used::default() };
        let mut table = UsageTable::default();
        table.add(one, Some("a"), &used);
        table.add(one, None, &used);
        table.add(two, Some("b"), &used);
        let sums = table.take_changed();
        assert_eq!(sums.len(), 4);
        assert_eq!(table.take_changed(), []);
        table.keep_changed(&sums);
        assert_eq!(table.take_changed(), sums, "they were not kept, so they come again");

        let mut again = UsageTable::default();
        // Requests before the kept sums were read are not lost.
        again.add(one, Some("a"), &used);
        again.restore(sums);
        assert_eq!(again.service(one).unwrap().total.requests, 3);
        assert_eq!(again.service(one).unwrap().by_key.get("a").unwrap().requests, 2);
        assert_eq!(again.service(two), table.service(two));
    }

    #[test]
    fn a_name_that_is_too_long_is_one_all_the_same() {
        let one = ServiceKey { blueprint: 1, service: 1 };
        let (mut table, used) = (UsageTable::default(), Used { requests: 1, ..Used::default() });
        let name = "ä".repeat(MAX_NAME + 5);
        for _ in 0..3 {
            table.add(one, Some(&name), &used);
        }
        let by_key = &table.service(one).unwrap().by_key;
        assert_eq!((by_key.len(), table.keys), (1, 1));
        assert_eq!(by_key.get(&"ä".repeat(MAX_NAME)).unwrap().requests, 3);
    }

    #[test]
    fn sums_stay_exact_when_there_are_more_keys_and_services_than_room() {
        let mut table = UsageTable::default();
        let one = Used { requests: 1, bytes_in: 3, open: Duration::from_millis(1), ..Used::default() };
        let service = |number: usize| ServiceKey { blueprint: 1, service: u64::try_from(number).unwrap() };
        for number in 0..MAX_KEYS * 2 {
            table.add(service(0), Some(&format!("key-{number}")), &one);
        }
        table.add(service(0), Some("key-5"), &one);
        let usage = table.service(service(0)).unwrap();
        assert_eq!(usage.by_key.len(), MAX_KEYS + 1);
        assert_eq!(usage.by_key.get("key-5").unwrap().requests, 2);
        assert_eq!(usage.by_key.get(OTHER).unwrap().requests, u64::try_from(MAX_KEYS).unwrap());
        let mut sum = Used::default();
        usage.by_key.values().for_each(|used| sum.add(used));
        assert_eq!(sum, usage.total);

        for number in 0..MAX_SERVICES * 2 {
            table.add(service(number), None, &one);
        }
        let mut sum = Used::default();
        table.totals().for_each(|(_, used)| sum.add(used));
        let count = u64::try_from(MAX_KEYS * 2 + 1 + MAX_SERVICES * 2).unwrap();
        assert_eq!((sum.requests, sum.bytes_in), (count, count * 3));
        assert_eq!(table.totals().count(), MAX_SERVICES + 1);
    }
}
