//! How many of something each may have at once, such as an agent, or one of its workloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places of every key; those of one do not take those of another.
#[derive(Debug)]
pub struct Places<K> {
    most: u32,
    taken: Mutex<BTreeMap<K, u32>>,
}

/// A place that is taken, until this is dropped.
#[derive(Debug)]
pub struct Place<K: Ord> {
    places: Arc<Places<K>>,
    key: K,
}

impl<K: Ord + Copy> Places<K> {
    /// So many for each key.
    #[must_use]
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::new(BTreeMap::new()) })
    }

    /// Takes a place; `None` where the key has all of its own.
    pub fn begin(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place { places: Arc::clone(self), key })
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.key);
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
        let [one, other] = [1, 2];
        let first = places.begin(one).unwrap();
        let _second = places.begin(one).unwrap();
        assert!(places.begin(one).is_none());
        drop(places.begin(other).unwrap());
        drop(first);
        assert!(places.begin(one).is_some());
        assert_eq!(places.taken.lock().len(), 1);
    }
}
