//! Which spokes may send what to which; without a grant, nothing.
//!
//! A grant names who, to whom, and what. For every peer the policy knows as a set of bits in which grants it
//! is a source and in which a destination, so that a decision costs two look-ups and an "and", however many
//! grants and peers there are. Answers to what was allowed are let back by [`Tracker`](crate::Tracker).

#![expect(clippy::disallowed_types, reason = "looked up by key, never walked in order")]

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use blueprint_common_types::WgPublicKey;

/// What a packet is, as far as a policy distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Every protocol, those without a name here included.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

impl Protocol {
    /// The protocol of an IP header's number; [`Self::Any`] for one without a name here.
    #[must_use]
    pub const fn of_number(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 | 58 => Self::Icmp,
            _ => Self::Any,
        }
    }
}

/// What a grant lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which protocol.
    pub protocol: Protocol,
    /// Destination ports; not looked at for protocols without ports.
    pub ports: RangeInclusive<u16>,
}

impl Rule {
    /// Everything.
    pub const ANY: Self = Self { protocol: Protocol::Any, ports: 0..=u16::MAX };

    pub(crate) fn allows(&self, protocol: Protocol, port: u16) -> bool {
        match self.protocol {
            Protocol::Any => true,
            Protocol::Icmp => protocol == Protocol::Icmp,
            Protocol::Tcp | Protocol::Udp => self.protocol == protocol && self.ports.contains(&port),
        }
    }
}

/// One end of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// Every peer.
    Anyone,
    /// These peers.
    Peers(BTreeSet<WgPublicKey>),
}

/// Grants between peers that a hub relays between. The default denies all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    grants: Vec<Vec<Rule>>,
    sources: Side,
    destinations: Side,
}

impl Policy {
    /// Denies everything.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::default()
    }

    /// Lets every peer of `source` begin what `rules` name with every peer of `destination`.
    pub fn grant(&mut self, source: &Party, destination: &Party, rules: Vec<Rule>) {
        let number = self.grants.len();
        self.grants.push(rules);
        self.sources.add(number, source);
        self.destinations.add(number, destination);
    }

    /// Lets one peer begin something with another.
    pub fn allow(&mut self, source: WgPublicKey, destination: WgPublicKey, rule: Rule) {
        let one = |key| Party::Peers(BTreeSet::from([key]));
        self.grant(&one(source), &one(destination), vec![rule]);
    }

    /// True where `source` may begin this with `destination`.
    #[must_use]
    pub fn allows(
        &self,
        source: &WgPublicKey,
        destination: &WgPublicKey,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        self.rules(source, destination).any(|rule| rule.allows(protocol, port))
    }

    /// True where `source` may begin anything with `destination`.
    #[must_use]
    pub fn reaches(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool {
        self.rules(source, destination).next().is_some()
    }

    /// The rules of all grants between the two.
    fn rules(&self, source: &WgPublicKey, destination: &WgPublicKey) -> impl Iterator<Item = &Rule> {
        let words = self.sources.words(source).zip(self.destinations.words(destination));
        let both = words.map(|(source, destination)| source & destination).enumerate();
        let numbers = both.filter(|(_, both)| *both != 0).flat_map(|(at, both)| {
            (0..64).filter(move |bit| both >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        });
        numbers.flat_map(|number| self.grants.get(number).map_or(&[][..], Vec::as_slice))
    }

    /// Number of grants.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.grants.len()
    }

    /// True where nothing is granted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

/// In which grants a peer stands on one side, one bit per grant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Side {
    anyone: Vec<u64>,
    peers: HashMap<WgPublicKey, Vec<u64>>,
}

impl Side {
    fn add(&mut self, number: usize, party: &Party) {
        match party {
            Party::Anyone => set(&mut self.anyone, number),
            Party::Peers(keys) => {
                for key in keys {
                    set(self.peers.entry(*key).or_default(), number);
                }
            }
        }
        let words = number / 64 + 1;
        self.anyone.resize(words.max(self.anyone.len()), 0);
    }

    fn words(&self, key: &WgPublicKey) -> impl Iterator<Item = u64> + '_ {
        let own = self.peers.get(key).map_or(&[][..], Vec::as_slice);
        let own = own.iter().copied().chain(std::iter::repeat(0));
        self.anyone.iter().copied().zip(own).map(|(anyone, own)| anyone | own)
    }
}

fn set(bits: &mut Vec<u64>, number: usize) {
    let word = number / 64;
    bits.resize(bits.len().max(word + 1), 0);
    if let Some(word) = bits.get_mut(word) {
        *word |= 1 << (number % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> WgPublicKey {
        WgPublicKey::from_bytes([number; 32])
    }

    fn tcp(ports: RangeInclusive<u16>) -> Rule {
        Rule { protocol: Protocol::Tcp, ports }
    }

    #[test]
    fn a_grant_holds_for_its_direction_protocol_and_ports_only() {
        let mut policy = Policy::deny_all();
        assert!(!policy.allows(&key(1), &key(2), Protocol::Tcp, 80));
        policy.allow(key(1), key(2), tcp(80..=90));
        assert!(policy.allows(&key(1), &key(2), Protocol::Tcp, 80));
        assert!(policy.allows(&key(1), &key(2), Protocol::Tcp, 90));
        assert!(!policy.allows(&key(1), &key(2), Protocol::Tcp, 91));
        assert!(!policy.allows(&key(1), &key(2), Protocol::Udp, 80));
        assert!(!policy.allows(&key(1), &key(2), Protocol::Any, 80), "a protocol without a name");
        assert!(!policy.allows(&key(2), &key(1), Protocol::Tcp, 80));
        assert!(!policy.allows(&key(1), &key(3), Protocol::Tcp, 80));
    }

    #[test]
    fn grants_beyond_one_word_and_for_anyone_are_found() {
        let mut policy = Policy::deny_all();
        for number in 0..130u8 {
            policy.allow(key(number), key(200), tcp(u16::from(number)..=u16::from(number)));
        }
        policy.grant(&Party::Anyone, &Party::Peers([key(201)].into()), vec![tcp(1..=1), tcp(3..=3)]);
        policy.grant(&Party::Peers([key(7)].into()), &Party::Anyone, vec![Rule::ANY]);
        for number in 0..130u8 {
            assert!(policy.allows(&key(number), &key(200), Protocol::Tcp, number.into()));
            assert_eq!(policy.allows(&key(number), &key(200), Protocol::Tcp, 999), number == 7);
            assert!(policy.allows(&key(number), &key(201), Protocol::Tcp, 3));
        }
        assert!(policy.allows(&key(7), &key(250), Protocol::Any, 0));
        assert_eq!(policy.len(), 132);
    }
}
