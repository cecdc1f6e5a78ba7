//! How many connections or flows may be open, in all and from one source.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{AcceptLimits, AcceptStats};

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// All are taken.
    #[error("too many are open")]
    Full,
    /// As many as one source may have.
    #[error("too many are open from that source")]
    FullFromSource,
}

/// A bounded number of places; clones are handles of the same.
#[derive(Debug, Clone)]
pub struct Places {
    limits: AcceptLimits,
    exempts_loopback: bool,
    open: Arc<Mutex<Open>>,
    stats: Arc<AcceptStats>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

/// One of them, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    open: Arc<Mutex<Open>>,
    source: IpAddr,
    stats: Arc<AcceptStats>,
}

impl Places {
    /// Places of which none is taken.
    #[must_use]
    pub fn new(limits: AcceptLimits) -> Self {
        Self { limits, exempts_loopback: false, open: Arc::default(), stats: Arc::default() }
    }

    /// Lets this machine itself have as many as all sources together.
    #[must_use]
    pub const fn exempting_loopback(mut self) -> Self {
        self.exempts_loopback = true;
        self
    }

    /// Counters that stay valid as long as somebody holds them.
    #[must_use]
    pub fn stats(&self) -> Arc<AcceptStats> {
        Arc::clone(&self.stats)
    }

    /// Takes a place for `source`, or counts the refusal.
    ///
    /// # Errors
    ///
    /// [`NoPlace`] says which limit is reached.
    pub fn take(&self, source: IpAddr) -> Result<Place, NoPlace> {
        let source = source_of(source);
        let mut open = self.open.lock();
        if open.total >= self.limits.total {
            self.stats.refused_total.fetch_add(1, Ordering::Relaxed);
            return Err(NoPlace::Full);
        }
        let from_source = open.by_source.get(&source).copied().unwrap_or(0);
        let is_exempt = self.exempts_loopback && source.is_loopback();
        if from_source >= self.limits.per_ip && !is_exempt {
            self.stats.refused_per_ip.fetch_add(1, Ordering::Relaxed);
            return Err(NoPlace::FullFromSource);
        }
        open.total = open.total.saturating_add(1);
        open.by_source.insert(source, from_source.saturating_add(1));
        self.stats.open.fetch_add(1, Ordering::Relaxed);
        Ok(Place { open: Arc::clone(&self.open), source, stats: self.stats() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.total = open.total.saturating_sub(1);
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = open.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, also in IPv6 clothes, or an IPv6 /64, which one household has whole.
pub(super) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_by_source() {
        let places = Places::new(AcceptLimits { total: 3, per_ip: 2 });
        let source = |last: u8| IpAddr::from([192, 0, 2, last]);
        let one = [places.take(source(1)), places.take(source(1))].map(Result::ok);
        assert!(matches!(places.take(source(1)), Err(NoPlace::FullFromSource)));
        let two = places.take(source(2)).ok();
        assert!(matches!(places.take(source(3)), Err(NoPlace::Full)));
        let stats = places.stats();
        assert_eq!((stats.open(), stats.refused_total(), stats.refused_per_ip()), (3, 1, 1));
        drop(two);
        assert!(places.take(source(3)).is_ok());
        drop(one);
        assert!(places.open.lock().by_source.is_empty(), "an address without any takes no room");
        assert_eq!(stats.open(), 0);
    }
}
