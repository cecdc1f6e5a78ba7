//! How many connections or flows may be open, in all and from one source.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use blueprint_hub_proxy_core::source_network;
use parking_lot::Mutex;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All are taken.
    Full,
    /// As many as one source may have.
    FullFromSource,
}

/// A bounded number of places.
pub(crate) struct Places {
    open: Mutex<Open>,
    total: usize,
    per_source: usize,
}

#[derive(Default)]
struct Open {
    total: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

/// One of them, given back when it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    pub(crate) fn new(total: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), total, per_source })
    }

    /// Takes a place for `source`: an IPv4 address, or the /64 of an IPv6 address.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr) -> Result<Place, NoPlace> {
        let source = source_network(source);
        let mut open = self.open.lock();
        let from_source = open.by_source.get(&source).copied().unwrap_or(0);
        if open.total >= self.total {
            return Err(NoPlace::Full);
        }
        if from_source >= self.per_source {
            return Err(NoPlace::FullFromSource);
        }
        open.total = open.total.saturating_add(1);
        open.by_source.insert(source, from_source.saturating_add(1));
        Ok(Place { places: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_by_source() {
        let places = Places::new(3, 2);
        let source = |last: u8| IpAddr::from([192, 0, 2, last]);
        let one = [places.take(source(1)), places.take(source(1))].map(Result::ok);
        assert!(matches!(places.take(source(1)), Err(NoPlace::FullFromSource)));
        let two = places.take(source(2)).ok();
        assert!(matches!(places.take(source(3)), Err(NoPlace::Full)));
        drop(two);
        assert!(places.take(source(3)).is_ok());
        drop(one);
        assert!(places.open.lock().by_source.is_empty(), "an address without any takes no room");
    }
}
