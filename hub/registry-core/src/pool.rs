//! Overlay addresses and who holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use blueprint_common_types::{OverlayLease, Timestamp, TokenId};
use ipnetwork::{Ipv4Network, Ipv6Network};

/// Number of the hub's own address inside both prefixes.
const HUB: u32 = 1;

/// The prefixes have no room for a spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{v4} and {v6} together have no address for a spoke")]
pub struct PoolError {
    /// The overlay's IPv4 prefix.
    pub v4: Ipv4Network,
    /// The overlay's IPv6 prefix.
    pub v6: Ipv6Network,
}

/// Why an address is not kept for a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromiseError {
    /// It is outside the overlay, or not one of a spoke there.
    #[error("{address} is no address for a node in the overlay {overlay}")]
    Outside {
        /// The address asked for.
        address: Ipv4Addr,
        /// The overlay's IPv4 prefix.
        overlay: Ipv4Network,
    },
    /// A node holds it.
    #[error("{0} is held by a node")]
    Held(Ipv4Addr),
    /// Another join token has the promise of it.
    #[error("{0} is promised to another join token")]
    Promised(Ipv4Addr),
}

/// Why no address was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// Every address is held or promised.
    #[error("the overlay has no free address")]
    Full,
    /// Somebody joins with the same token at this moment and has its address in hand.
    #[error("another machine is joining with this token")]
    Busy,
}

/// An address that waits for the machine with one join token.
#[derive(Debug, Clone, Copy)]
struct Promise {
    token: TokenId,
    /// End of the token, and of the promise with it.
    until: Timestamp,
}

/// Gives out pairs of overlay addresses: the same number counted from the start of either prefix.
///
/// A number that is promised to a join token is given to nobody else until that token ends.
///
/// The hub holds number 1. A released address is given again only after every other one had its
/// turn, so that packets for a machine that left do not reach its successor.
#[derive(Debug, Clone)]
pub struct AddressPool {
    v4: Ipv4Network,
    v6: Ipv6Network,
    /// Largest number that may be given.
    last: u32,
    /// Where the search for a free number starts.
    next: u32,
    held: BTreeSet<u32>,
    /// Kept until the join is through: a join that fails gives the number back, not the promise.
    promised: BTreeMap<u32, Promise>,
}

impl AddressPool {
    /// Makes a pool in which only the hub's address is taken.
    ///
    /// # Errors
    ///
    /// Fails where the prefixes have no room for the hub and one spoke.
    pub fn new(v4: Ipv4Network, v6: Ipv6Network) -> Result<Self, PoolError> {
        let v4_hosts = u32::MAX.checked_shr(u32::from(v4.prefix())).unwrap_or(0).saturating_sub(1);
        let v6_hosts = u128::MAX.checked_shr(u32::from(v6.prefix())).unwrap_or(0);
        let last = v4_hosts.min(u32::try_from(v6_hosts).unwrap_or(u32::MAX));
        if last <= HUB {
            return Err(PoolError { v4, v6 });
        }
        Ok(Self { v4, v6, last, next: HUB + 1, held: BTreeSet::new(), promised: BTreeMap::new() })
    }

    /// The hub's own addresses.
    #[must_use]
    pub fn hub(&self) -> OverlayLease {
        self.lease(HUB)
    }

    /// How many spokes fit.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.last - HUB
    }

    /// How many addresses spokes hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Keeps an address for whoever joins with `token` before `until`.
    ///
    /// # Errors
    ///
    /// Each variant of [`PromiseError`] says its case.
    pub fn promise(
        &mut self,
        address: Ipv4Addr,
        token: TokenId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), PromiseError> {
        self.expire(now);
        let number = address.to_bits().checked_sub(self.v4.network().to_bits());
        let number = number.filter(|number| (HUB + 1..=self.last).contains(number));
        let number = number.ok_or(PromiseError::Outside { address, overlay: self.v4 })?;
        if self.promised.contains_key(&number) {
            return Err(PromiseError::Promised(address));
        }
        if self.held.contains(&number) {
            return Err(PromiseError::Held(address));
        }
        self.promised.insert(number, Promise { token, until });
        Ok(())
    }

    /// Takes back what was promised to a token; false where nothing was.
    pub fn forget(&mut self, token: TokenId) -> bool {
        let before = self.promised.len();
        self.promised.retain(|_, promise| promise.token != token);
        self.promised.len() < before
    }

    /// Takes the pair that is promised to a token, else a free one.
    ///
    /// # Errors
    ///
    /// Each variant of [`ReserveError`] says its case.
    pub fn reserve_for(&mut self, token: TokenId, now: Timestamp) -> Result<OverlayLease, ReserveError> {
        self.expire(now);
        let promised = self.promised.iter().find(|(_, promise)| promise.token == token);
        let Some(number) = promised.map(|(number, _)| *number) else {
            return self.reserve().ok_or(ReserveError::Full);
        };
        if self.held.insert(number) { Ok(self.lease(number)) } else { Err(ReserveError::Busy) }
    }

    /// Takes a free pair that is promised to nobody; `None` where the overlay is full.
    pub fn reserve(&mut self) -> Option<OverlayLease> {
        let number = self.free_from(self.next).or_else(|| self.free_from(HUB + 1))?;
        self.held.insert(number);
        self.next = if number == self.last { HUB + 1 } else { number + 1 };
        Some(self.lease(number))
    }

    /// Takes the pair that a stored agent holds; false where it is not of this pool or is taken.
    pub fn mark(&mut self, lease: OverlayLease) -> bool {
        let Some(number) = self.number(lease) else { return false };
        if number >= self.next {
            self.next = if number == self.last { HUB + 1 } else { number + 1 };
        }
        self.held.insert(number)
    }

    /// Gives a pair back; false where nobody held it.
    pub fn release(&mut self, lease: OverlayLease) -> bool {
        self.number(lease).is_some_and(|number| self.held.remove(&number))
    }

    fn free_from(&self, start: u32) -> Option<u32> {
        (start..=self.last).find(|number| !self.held.contains(number) && !self.promised.contains_key(number))
    }

    fn expire(&mut self, now: Timestamp) {
        self.promised.retain(|_, promise| promise.until > now);
    }

    fn lease(&self, number: u32) -> OverlayLease {
        OverlayLease {
            v4: Ipv4Addr::from_bits(self.v4.network().to_bits().wrapping_add(number)),
            v6: Ipv6Addr::from_bits(self.v6.network().to_bits().wrapping_add(u128::from(number))),
        }
    }

    fn number(&self, lease: OverlayLease) -> Option<u32> {
        let number = lease.v4.to_bits().checked_sub(self.v4.network().to_bits())?;
        let ours = number > HUB && number <= self.last && self.lease(number) == lease;
        ours.then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(v4: &str) -> Result<AddressPool, PoolError> {
        let any4 = Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0);
        let any6 = Ipv6Network::new(Ipv6Addr::UNSPECIFIED, 0);
        let (Ok(any4), Ok(any6)) = (any4, any6) else { unreachable!() };
        AddressPool::new(v4.parse().unwrap_or(any4), "fd12:3456:789a::/64".parse().unwrap_or(any6))
    }

    #[test]
    fn the_hub_is_first_and_both_families_count_alike() {
        let mut pool = pool("10.88.0.0/16").unwrap();
        assert_eq!(pool.hub().v4.to_string(), "10.88.0.1");
        assert_eq!(pool.hub().v6.to_string(), "fd12:3456:789a::1");
        let lease = pool.reserve().unwrap();
        assert_eq!(lease.v4.to_string(), "10.88.0.2");
        assert_eq!(lease.v6.to_string(), "fd12:3456:789a::2");
        assert_eq!(pool.capacity(), 65_533);
    }

    #[test]
    fn a_full_overlay_gives_nothing_and_a_release_gives_that_one() {
        let mut pool = pool("10.7.0.0/29").unwrap();
        let held: Vec<_> = std::iter::from_fn(|| pool.reserve()).collect();
        assert_eq!(held.len(), 5);
        assert_eq!(held.last().unwrap().v4.to_string(), "10.7.0.6");
        assert!(pool.release(held[2]));
        assert!(!pool.release(held[2]));
        assert_eq!(pool.reserve(), Some(held[2]));
        assert_eq!(pool.reserve(), None);
    }

    #[test]
    fn a_released_address_waits_for_its_turn() {
        let mut pool = pool("10.7.0.0/28").unwrap();
        let first = pool.reserve().unwrap();
        pool.release(first);
        assert_ne!(pool.reserve(), Some(first));
    }

    #[test]
    fn stored_leases_are_marked_once_and_only_in_this_pool() {
        let mut pool = pool("10.7.0.0/28").unwrap();
        let lease =
            OverlayLease { v4: "10.7.0.5".parse().unwrap(), v6: "fd12:3456:789a::5".parse().unwrap() };
        assert!(pool.mark(lease));
        assert!(!pool.mark(lease));
        assert!(!pool.mark(OverlayLease { v6: "fd12::5".parse().unwrap(), ..lease }));
        assert!(!pool.mark(OverlayLease { v4: "10.8.0.5".parse().unwrap(), ..lease }));
        let hub = pool.hub();
        assert!(!pool.mark(hub));
        let rest: Vec<_> = std::iter::from_fn(|| pool.reserve()).collect();
        assert!(!rest.contains(&lease));
        assert_eq!(rest.len(), 12);
    }

    const TOKEN: TokenId = TokenId::from_bytes([7; 8]);
    const OTHER: TokenId = TokenId::from_bytes([8; 8]);
    const START: Timestamp = Timestamp::from_millis(1_000);
    const END: Timestamp = Timestamp::from_millis(2_000);

    #[test]
    fn a_promised_address_goes_to_its_token_and_to_nobody_else() {
        let mut pool = pool("10.7.0.0/29").unwrap();
        let wanted: Ipv4Addr = "10.7.0.3".parse().unwrap();
        pool.promise(wanted, TOKEN, END, START).unwrap();
        let others: Vec<_> = std::iter::from_fn(|| pool.reserve_for(OTHER, START).ok()).collect();
        assert_eq!(others.len(), 4);
        assert!(others.iter().all(|lease| lease.v4 != wanted));
        assert_eq!(pool.reserve_for(OTHER, START), Err(ReserveError::Full));

        let lease = pool.reserve_for(TOKEN, START).unwrap();
        assert_eq!((lease.v4, lease.v6.to_string().as_str()), (wanted, "fd12:3456:789a::3"));
        assert_eq!(pool.reserve_for(TOKEN, START), Err(ReserveError::Busy));
        assert!(pool.release(lease), "the join failed");
        assert_eq!(pool.reserve_for(OTHER, START), Err(ReserveError::Full), "the promise outlives it");
        assert_eq!(pool.reserve_for(TOKEN, START), Ok(lease));
        assert!(pool.forget(TOKEN) && !pool.forget(TOKEN));
        assert_eq!(pool.promise(wanted, OTHER, END, START), Err(PromiseError::Held(wanted)));
    }

    #[test]
    fn a_promise_ends_with_its_token() {
        let mut pool = pool("10.7.0.0/30").unwrap();
        let wanted: Ipv4Addr = "10.7.0.2".parse().unwrap();
        pool.promise(wanted, TOKEN, END, START).unwrap();
        assert_eq!(pool.promise(wanted, OTHER, END, START), Err(PromiseError::Promised(wanted)));
        assert_eq!(pool.reserve_for(OTHER, START), Err(ReserveError::Full));
        assert_eq!(pool.reserve_for(OTHER, END).unwrap().v4, wanted);
    }

    #[test]
    fn only_addresses_of_spokes_are_promised() {
        let mut pool = pool("10.7.0.0/29").unwrap();
        for (outside, why) in [
            ("10.7.0.0", "network"),
            ("10.7.0.1", "hub"),
            ("10.7.0.7", "broadcast"),
            ("10.8.0.3", "elsewhere"),
        ] {
            let address: Ipv4Addr = outside.parse().unwrap();
            let refused = pool.promise(address, TOKEN, END, START);
            assert!(matches!(refused, Err(PromiseError::Outside { .. })), "{why}");
        }
    }

    #[test]
    fn prefixes_without_room_are_refused() {
        for tight in ["10.0.0.0/30", "10.0.0.0/29", "0.0.0.0/0"] {
            assert!(pool(tight).is_ok(), "{tight}");
        }
        for full in ["10.0.0.0/31", "10.0.0.0/32"] {
            assert!(pool(full).is_err(), "{full}");
        }
    }
}
