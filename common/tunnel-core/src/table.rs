//! Longest prefix to peer, over all peers at once (W1).
//!
//! A hash table per prefix length that is in use: a hub has two (`/32` and `/128`), so a lookup costs the same
//! with ten peers and with ten thousand, and an exact prefix has one holder by construction.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::shards::Shards;

/// Which peer holds which prefix.
#[derive(Debug, Clone)]
pub(crate) struct Table<P> {
    v4: Family<P>,
    v6: Family<P>,
}

/// Prefix length to masked address to peer; addresses stand in the high bits.
type Family<P> = BTreeMap<u8, Shards<u128, P>>;

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self { v4: Family::new(), v6: Family::new() }
    }
}

impl<P: Clone> Table<P> {
    /// Who holds exactly this prefix.
    pub(crate) fn holder(&self, prefix: IpNetwork) -> Option<&P> {
        let (family, key) = (self.family(prefix.ip()), masked(bits(prefix.ip()), prefix.prefix()));
        family.get(&prefix.prefix())?.get(&key)
    }

    /// Gives a prefix to a peer, in place of whoever held it.
    pub(crate) fn insert(&mut self, prefix: IpNetwork, peer: P) {
        let key = masked(bits(prefix.ip()), prefix.prefix());
        self.family_mut(prefix.ip()).entry(prefix.prefix()).or_default().insert(key, peer);
    }

    /// Takes a prefix from whoever holds it.
    pub(crate) fn remove(&mut self, prefix: IpNetwork) {
        let key = masked(bits(prefix.ip()), prefix.prefix());
        let family = self.family_mut(prefix.ip());
        if let Some(length) = family.get_mut(&prefix.prefix()) {
            length.remove(&key);
            if length.is_empty() {
                family.remove(&prefix.prefix());
            }
        }
    }

    /// The peer with the longest prefix that covers `address`.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<&P> {
        let wanted = bits(address);
        self.family(address).iter().rev().find_map(|(length, table)| table.get(&masked(wanted, *length)))
    }

    const fn family(&self, address: IpAddr) -> &Family<P> {
        match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }

    const fn family_mut(&mut self, address: IpAddr) -> &mut Family<P> {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn masked(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128u32.saturating_sub(u32::from(length))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table as a list that is searched whole.
    #[derive(Default)]
    struct Naive(Vec<(IpNetwork, u32)>);

    impl Naive {
        fn insert(&mut self, prefix: IpNetwork, peer: u32) {
            self.remove(prefix);
            self.0.push((prefix, peer));
        }

        fn remove(&mut self, prefix: IpNetwork) {
            self.0.retain(|(held, _)| (held.network(), held.prefix()) != (prefix.network(), prefix.prefix()));
        }

        fn lookup(&self, address: IpAddr) -> Option<u32> {
            let covering = self.0.iter().filter(|(prefix, _)| prefix.contains(address));
            covering.max_by_key(|(prefix, _)| prefix.prefix()).map(|(_, peer)| *peer)
        }
    }

    /// Few distinct bits, so that prefixes nest and collide often.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u8..3, 0u8..3, 0u8..4).prop_map(|(a, b, c)| IpAddr::from([10, a, b, c])),
            (0u16..3, 0u16..3).prop_map(|(a, b)| IpAddr::from([0xfd00, a, 0, 0, 0, 0, 0, b])),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNetwork> {
        (address(), 0u8..=128).prop_filter_map("longer than the address", |(address, length)| {
            let length = if address.is_ipv4() { length % 33 } else { length };
            IpNetwork::new(address, length).ok()
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_search_of_the_whole_list(
            steps in proptest::collection::vec((prefix(), 0u32..5, any::<bool>()), 0..40),
            asked in proptest::collection::vec(address(), 1..20),
        ) {
            let (mut table, mut naive) = (Table::default(), Naive::default());
            for (prefix, peer, insert) in steps {
                if insert {
                    table.insert(prefix, peer);
                    naive.insert(prefix, peer);
                    prop_assert_eq!(table.holder(prefix), Some(&peer));
                } else {
                    table.remove(prefix);
                    naive.remove(prefix);
                    prop_assert_eq!(table.holder(prefix), None);
                }
            }
            for address in asked {
                prop_assert_eq!(table.lookup(address).copied(), naive.lookup(address), "{}", address);
            }
        }
    }
}
