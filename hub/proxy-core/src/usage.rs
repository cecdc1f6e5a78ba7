//! What each service and each key has used, in sums that bills can be made of.
//!
//! Sums are exact. What is bounded is how many keys and services are told apart: what comes when the table
//! is full is counted under [`OTHER`], so that nothing is lost from the total.

use std::collections::BTreeMap;
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

/// What was used since the start of the hub.
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

/// The sums of all services.
#[derive(Debug, Default)]
pub struct UsageTable {
    services: BTreeMap<ServiceKey, ServiceUsage>,
    other: Used,
    keys: usize,
}

impl UsageTable {
    /// Adds what one request used; `key` is the public name of what its credential
    /// stands on, where one was shown.
    ///
    /// `service` has to be one that exists: its name is not the client's to invent.
    pub fn add(&mut self, service: ServiceKey, key: Option<&str>, used: &Used) {
        if self.services.len() >= MAX_SERVICES && !self.services.contains_key(&service) {
            return self.other.add(used);
        }
        let usage = self.services.entry(service).or_default();
        usage.total.add(used);
        let Some(key) = key else { return };
        if let Some(known) = usage.by_key.get_mut(key) {
            return known.add(used);
        }
        let name = if self.keys < MAX_KEYS {
            self.keys = self.keys.saturating_add(1);
            key.chars().take(MAX_NAME).collect()
        } else {
            OTHER.to_owned()
        };
        usage.by_key.entry(name).or_default().add(used);
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
