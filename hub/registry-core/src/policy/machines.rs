//! The machines that a policy is applied to, found by name, id and address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use blueprint_common_types::{AgentId, WgPublicKey};

use super::document::Selector;
use crate::Agent;

/// What a policy needs to know of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its identity.
    pub id: AgentId,
    /// Its name, which others may share.
    pub name: String,
    /// What it is in the tunnel.
    pub key: WgPublicKey,
}

/// The machines of one moment, in the order in which they joined. Equal where policies mean the same on both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machines {
    list: Vec<Machine>,
    by_name: BTreeMap<String, Vec<usize>>,
    by_id: BTreeMap<AgentId, usize>,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Machines {
    /// Takes the machines in any order.
    #[must_use]
    pub fn new<'a>(agents: impl IntoIterator<Item = &'a Agent>) -> Self {
        let mut agents: Vec<&Agent> = agents.into_iter().collect();
        agents.sort_by_key(|agent| (agent.joined_at, agent.id));
        let mut machines = Self::default();
        for (index, agent) in agents.into_iter().enumerate() {
            machines.by_name.entry(agent.name.clone()).or_default().push(index);
            machines.by_id.insert(agent.id, index);
            machines.by_address.insert(agent.lease.v4.into(), index);
            machines.by_address.insert(agent.lease.v6.into(), index);
            machines.list.push(Machine { id: agent.id, name: agent.name.clone(), key: agent.wireguard_key });
        }
        machines
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn at(&self, index: usize) -> Option<&Machine> {
        self.list.get(index)
    }

    /// Adds the machines that `selector` names to `set`; false where it names none and is not `*`.
    pub(super) fn select(&self, selector: &Selector, set: &mut MachineSet) -> bool {
        let found = match selector {
            Selector::All => {
                set.fill(self.list.len());
                return true;
            }
            Selector::Address(address) => self.by_address.get(address).map_or(&[][..], std::slice::from_ref),
            Selector::Id(id) => self.by_id.get(id).map_or(&[][..], std::slice::from_ref),
            Selector::Name(name) => self.by_name.get(name).map_or(&[][..], Vec::as_slice),
        };
        found.iter().for_each(|index| set.insert(*index));
        !found.is_empty()
    }
}

/// Machines by their place in [`Machines`], one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MachineSet(Vec<u64>);

impl MachineSet {
    pub(super) fn insert(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.0.len() {
            self.0.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (index % 64);
        }
    }

    /// Adds every place below `end`.
    pub(super) fn fill(&mut self, end: usize) {
        let whole = end / 64;
        if self.0.len() < whole {
            self.0.resize(whole, 0);
        }
        self.0.iter_mut().take(whole).for_each(|word| *word = u64::MAX);
        (whole.saturating_mul(64)..end).for_each(|index| self.insert(index));
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// The words that hold the places below `end`, without the places beyond it.
    fn words(&self, end: usize) -> impl Iterator<Item = u64> {
        let partial = (1u64 << (end % 64)).wrapping_sub(1);
        let whole = self.0.iter().take(end / 64).copied();
        whole.chain(self.0.get(end / 64).map(|word| word & partial))
    }

    /// The places below `end`, in order.
    pub(super) fn below(&self, end: usize) -> impl Iterator<Item = usize> {
        (0usize..).step_by(64).zip(self.words(end)).flat_map(|(first, mut word)| {
            std::iter::from_fn(move || {
                let bit = usize::try_from(word.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
                word &= word.wrapping_sub(1);
                Some(first.saturating_add(bit))
            })
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.below(usize::MAX)
    }

    /// Ordered pairs of one place here and another in `to`, both below `end`.
    pub(super) fn pairs(&self, to: &Self, end: usize) -> u64 {
        let count = |set: &Self| set.words(end).map(|word| u64::from(word.count_ones())).sum::<u64>();
        let both =
            self.words(end).zip(to.words(end)).map(|(here, there)| u64::from((here & there).count_ones()));
        count(self).saturating_mul(count(to)).saturating_sub(both.sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_a_set(
            mut places in proptest::collection::btree_set(0usize..300, 0..80),
            others in proptest::collection::btree_set(0usize..300, 0..80),
            filled in 0usize..200,
            end in 0usize..310,
        ) {
            let (mut set, mut other) = (MachineSet::default(), MachineSet::default());
            places.iter().for_each(|place| set.insert(*place));
            others.iter().for_each(|place| other.insert(*place));
            prop_assert!((0..320).all(|place| set.contains(place) == places.contains(&place)));
            set.fill(filled);
            places.extend(0..filled);
            prop_assert!(set.below(end).eq(places.iter().copied().filter(|place| *place < end)));
            let pairs = places.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
            let pairs = pairs.filter(|(a, b)| a != b && **a < end && **b < end).count();
            prop_assert_eq!(set.pairs(&other, end), u64::try_from(pairs).unwrap());
        }
    }
}
