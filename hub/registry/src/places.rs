//! How many of something each agent may have at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::AgentId;
use parking_lot::Mutex;

/// Places of every agent; those of one do not take those of another.
#[derive(Debug)]
pub(crate) struct Places {
    most: u32,
    taken: Mutex<BTreeMap<AgentId, u32>>,
}

/// A place that is taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    agent: AgentId,
}

impl Places {
    /// So many for each agent.
    pub(crate) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes a place; `None` where the agent has all of its own.
    pub(crate) fn begin(self: &Arc<Self>, agent: AgentId) -> Option<Place> {
        let mut taken = self.taken.lock();
        let count = taken.entry(agent).or_default();
        if *count >= self.most {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place { places: Arc::clone(self), agent })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_so_many_and_others_are_not_held_up() {
        let places = Places::new(2);
        let [one, other] = [1, 2].map(|byte| AgentId::from_bytes([byte; 16]));
        let first = places.begin(one).unwrap();
        let _second = places.begin(one).unwrap();
        assert!(places.begin(one).is_none());
        drop(places.begin(other).unwrap());
        drop(first);
        assert!(places.begin(one).is_some());
        assert_eq!(places.taken.lock().len(), 1);
    }
}
