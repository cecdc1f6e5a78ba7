//! How much of a service anybody may use: requests a second, requests at once, and bytes of a body.
//!
//! A service has limits for all of its clients together and others for each of them. Who is over a limit is
//! refused before any target is asked; what is refused for one limit is not charged to another. Rates are
//! the generic cell rate algorithm ([`RateTable`]), so a changed limit holds from the next request on.

use std::collections::BTreeMap;
use std::time::Instant;

use blueprint_common_types::ServiceKey;
use serde::{Deserialize, Serialize};

use crate::rate::{Rate, RateTable};
use crate::refusal::Refusal;
use crate::settings::SettingsError;

/// Highest rate, in requests a second; above it a bucket has no resolution left.
const MAX_RATE: u32 = 1_000_000;

/// Seconds after which a client may come back that has as many requests open as it may.
const BUSY_RETRY_AFTER: u64 = 1;

/// Limits; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a second in the long run.
    pub requests_per_second: u32,
    /// Requests that may come together; 0 for those of one second.
    pub burst: u32,
    /// Requests that may be open at once; streams and WebSockets are open until they end.
    pub concurrent: u32,
    /// Bytes of the body of a request.
    pub body_bytes: u64,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests a second of all clients of a service.
    ServiceRate,
    /// Requests a second of one client.
    KeyRate,
    /// Open requests of all clients of a service.
    ServiceConcurrency,
    /// Open requests of one client.
    KeyConcurrency,
}

impl LimitKind {
    /// What there is too much of, for the client.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::ServiceRate => "requests a second for this service",
            Self::KeyRate => "requests a second with this credential",
            Self::ServiceConcurrency => "open requests for this service",
            Self::KeyConcurrency => "open requests with this credential",
        }
    }
}

impl Limits {
    pub(crate) fn check(&self, field: &'static str) -> Result<(), SettingsError> {
        if self.requests_per_second > MAX_RATE || self.burst > MAX_RATE {
            return Err(SettingsError::OutOfRange { field, most: u64::from(MAX_RATE) });
        }
        Ok(())
    }

    /// The smaller of two limits of bodies; `None` for none.
    #[must_use]
    pub fn body_limit(&self, other: &Self) -> Option<u64> {
        [self.body_bytes, other.body_bytes].into_iter().filter(|bytes| *bytes > 0).min()
    }

    fn rate(&self) -> Option<Rate> {
        let burst = if self.burst == 0 { self.requests_per_second } else { self.burst };
        let second = std::time::Duration::from_secs(1);
        let interval = second.checked_div(self.requests_per_second)?;
        Some(Rate { burst, interval })
    }
}

/// Who a request counts for.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The service that it calls.
    pub service: ServiceKey,
    /// The client, as [`Identity::account`](crate::identity::Identity::account) names it.
    pub account: &'a str,
    /// Limits of all clients of the service together.
    pub of_service: &'a Limits,
    /// Limits of each client.
    pub of_key: &'a Limits,
}

/// What a request that was let in holds; [`LimitTable::end`] takes it back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    service: Option<ServiceKey>,
    key: Option<(ServiceKey, String)>,
}

impl Held {
    /// Whether there is nothing to take back.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.service.is_none() && self.key.is_none()
    }
}

/// Rates and open requests of everybody who has a limit.
#[derive(Debug)]
pub struct LimitTable {
    services: Meter<ServiceKey>,
    keys: Meter<(ServiceKey, String)>,
}

/// Rates are kept for a bounded number of keys; open requests are as many as connections carry.
#[derive(Debug)]
struct Meter<K> {
    rates: RateTable<K>,
    open: BTreeMap<K, u32>,
}

impl Default for LimitTable {
    fn default() -> Self {
        Self { services: Meter::new(), keys: Meter::new() }
    }
}

impl LimitTable {
    /// Lets a request in and counts it.
    ///
    /// # Errors
    ///
    /// [`Refusal::LimitReached`]; then nothing is counted.
    pub fn begin(&mut self, claim: &Claim<'_>, now: Instant) -> Result<Held, Refusal> {
        let Claim { service, account, of_service, of_key } = *claim;
        let busy = |limit| Err(Refusal::LimitReached { limit, retry_after: BUSY_RETRY_AFTER });
        let key = || (service, account.to_owned());
        let has_key = of_key.requests_per_second > 0 || of_key.concurrent > 0;
        let key = has_key.then(key);
        if let Some(key) = &key
            && self.keys.is_full(key, of_key.concurrent)
        {
            return busy(LimitKind::KeyConcurrency);
        }
        if self.services.is_full(&service, of_service.concurrent) {
            return busy(LimitKind::ServiceConcurrency);
        }
        if let (Some(rate), Some(key)) = (of_key.rate(), &key) {
            self.keys.take(key, rate, now, LimitKind::KeyRate)?;
        }
        if let Some(rate) = of_service.rate() {
            let taken = self.services.take(&service, rate, now, LimitKind::ServiceRate);
            if let (Err(_), Some(rate), Some(key)) = (&taken, of_key.rate(), &key) {
                self.keys.rates.give_back(key, rate);
            }
            taken?;
        }
        let key = key.filter(|_| of_key.concurrent > 0);
        let service = Some(service).filter(|_| of_service.concurrent > 0);
        if let Some(key) = &key {
            self.keys.enter(key.clone());
        }
        if let Some(service) = service {
            self.services.enter(service);
        }
        Ok(Held { service, key })
    }

    /// The request is over.
    pub fn end(&mut self, held: Held) {
        if let Some(service) = held.service {
            self.services.leave(&service);
        }
        if let Some(key) = held.key {
            self.keys.leave(&key);
        }
    }
}

impl<K: Ord + Clone> Meter<K> {
    fn new() -> Self {
        // Every limit brings its own rate.
        let unused = Rate { burst: 0, interval: std::time::Duration::ZERO };
        Self { rates: RateTable::new(unused), open: BTreeMap::new() }
    }

    fn is_full(&self, key: &K, most: u32) -> bool {
        most > 0 && self.open.get(key).is_some_and(|open| *open >= most)
    }

    fn take(&mut self, key: &K, rate: Rate, now: Instant, limit: LimitKind) -> Result<(), Refusal> {
        let taken = self.rates.take_at(key.clone(), rate, now);
        taken.map_err(|wait| Refusal::LimitReached { limit, retry_after: wait.as_secs().saturating_add(1) })
    }

    fn enter(&mut self, key: K) {
        let open = self.open.entry(key).or_insert(0);
        *open = open.saturating_add(1);
    }

    fn leave(&mut self, key: &K) {
        if let Some(open) = self.open.get_mut(key) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.open.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
    const NONE: Limits = Limits { requests_per_second: 0, burst: 0, concurrent: 0, body_bytes: 0 };

    fn rate(requests_per_second: u32, burst: u32) -> Limits {
        Limits { requests_per_second, burst, ..NONE }
    }

    fn claim<'a>(account: &'a str, of_service: &'a Limits, of_key: &'a Limits) -> Claim<'a> {
        Claim { service: SERVICE, account, of_service, of_key }
    }

    fn limit(refused: Result<Held, Refusal>) -> Option<(LimitKind, u64)> {
        match refused {
            Err(Refusal::LimitReached { limit, retry_after }) => Some((limit, retry_after)),
            _ => None,
        }
    }

    #[test]
    fn a_client_has_its_own_rate_and_none_of_another() {
        let (mut table, start) = (LimitTable::default(), Instant::now());
        let of_key = rate(2, 4);
        for account in ["a", "b"] {
            for _ in 0..4 {
                assert!(table.begin(&claim(account, &NONE, &of_key), start).unwrap().is_nothing());
            }
            let refused = table.begin(&claim(account, &NONE, &of_key), start);
            assert_eq!(limit(refused), Some((LimitKind::KeyRate, 1)));
        }
        let later = start + Duration::from_millis(500);
        assert!(table.begin(&claim("a", &NONE, &of_key), later).is_ok());
        assert!(table.begin(&claim("a", &NONE, &of_key), later).is_err());
    }

    #[test]
    fn what_the_service_refuses_costs_the_client_nothing() {
        let (mut table, start) = (LimitTable::default(), Instant::now());
        let (of_service, of_key) = (rate(1, 1), rate(1, 3));
        assert!(table.begin(&claim("a", &of_service, &of_key), start).is_ok());
        for _ in 0..10 {
            let refused = table.begin(&claim("a", &of_service, &of_key), start);
            assert_eq!(limit(refused), Some((LimitKind::ServiceRate, 2)));
        }
        for _ in 0..2 {
            assert!(table.begin(&claim("a", &NONE, &of_key), start).is_ok(), "two of three are left");
        }
        assert!(table.begin(&claim("a", &NONE, &of_key), start).is_err());
    }

    #[test]
    fn open_requests_count_until_they_end() {
        let (mut table, now) = (LimitTable::default(), Instant::now());
        let (of_service, of_key) = (Limits { concurrent: 3, ..NONE }, Limits { concurrent: 2, ..NONE });
        let first = table.begin(&claim("a", &of_service, &of_key), now).unwrap();
        let _second = table.begin(&claim("a", &of_service, &of_key), now).unwrap();
        let refused = table.begin(&claim("a", &of_service, &of_key), now);
        assert_eq!(limit(refused), Some((LimitKind::KeyConcurrency, 1)));
        let third = table.begin(&claim("b", &of_service, &of_key), now).unwrap();
        let refused = table.begin(&claim("b", &of_service, &of_key), now);
        assert_eq!(limit(refused), Some((LimitKind::ServiceConcurrency, 1)));
        table.end(first);
        assert!(table.begin(&claim("a", &of_service, &of_key), now).is_ok());
        table.end(third);
        assert_eq!(table.keys.open.len(), 1, "nobody is remembered who has nothing open");
    }

    #[test]
    fn a_change_holds_from_the_next_request_on() {
        let (mut table, now) = (LimitTable::default(), Instant::now());
        for _ in 0..100 {
            assert!(table.begin(&claim("a", &NONE, &rate(1, 100)), now).is_ok());
        }
        assert!(table.begin(&claim("a", &NONE, &rate(1, 100)), now).is_err());
        assert!(table.begin(&claim("a", &NONE, &rate(1, 101)), now).is_ok(), "the burst grew by one");
        let faster = rate(10, 10);
        let refused = table.begin(&claim("a", &NONE, &faster), now);
        assert_eq!(limit(refused), Some((LimitKind::KeyRate, 1)), "not the 100 s that were owed before");
        assert!(table.begin(&claim("a", &NONE, &faster), now + Duration::from_secs(1)).is_ok());
    }

    proptest! {
        /// In no stretch of time do more pass than its rate and the burst.
        #[test]
        fn the_rate_holds_over_every_stretch(
            per_second in 1u32..50,
            burst in 1u32..20,
            waits in prop::collection::vec(0u64..200, 1..200),
        ) {
            let (mut table, mut now) = (LimitTable::default(), Instant::now());
            let of_service = rate(per_second, burst);
            let mut passed: Vec<Instant> = Vec::new();
            for wait in waits {
                now += Duration::from_millis(wait);
                if table.begin(&claim("a", &of_service, &NONE), now).is_ok() {
                    passed.push(now);
                }
                for from in &passed {
                    let stretch = now.duration_since(*from).as_secs_f64();
                    let count = passed.iter().filter(|at| *at >= from).count();
                    let most = f64::from(burst) + stretch * f64::from(per_second) + 1e-3;
                    prop_assert!(f64::from(u32::try_from(count).unwrap()) <= most);
                }
            }
            prop_assert!(!passed.is_empty());
        }
    }
}
