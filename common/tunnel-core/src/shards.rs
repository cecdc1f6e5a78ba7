//! A map that is cheap to copy and to change after that: 256 parts, each shared until it is changed.
//!
//! The core hands a copy of its tables to the packet threads after every change. With one map of 10,000 peers
//! each copy costs half a millisecond and adding all of them seconds; here a copy counts up 256 references, and a
//! change copies the one part it falls into.

#![expect(clippy::disallowed_types, reason = "looked up by key, never walked in order")]

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// Parts; about forty peers in each of a full hub's.
const PARTS: usize = 256;

/// A map by slot or address that nobody walks.
pub(crate) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// A map in parts.
pub(crate) struct Shards<K, V> {
    parts: Box<[Arc<ByNumber<K, V>>]>,
    len: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Shards<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.parts.get(part(key))?.get(key)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(part) = self.parts.get_mut(part(&key))
            && Arc::make_mut(part).insert(key, value).is_none()
        {
            self.len += 1;
        }
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(part) = self.parts.get_mut(part(key))
            && part.contains_key(key)
        {
            Arc::make_mut(part).remove(key);
            self.len -= 1;
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(ByNumber::default());
        Self { parts: (0..PARTS).map(|_| Arc::clone(&empty)).collect(), len: 0 }
    }
}

impl<K, V> Clone for Shards<K, V> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), len: self.len }
    }
}

impl<K, V> fmt::Debug for Shards<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The part of a key, from bits of the hash that the maps inside use last.
fn part(key: &impl Hash) -> usize {
    let mut mix = Mix::default();
    key.hash(&mut mix);
    let [_, _, _, _, byte, ..] = mix.finish().to_le_bytes();
    byte.into()
}

/// One multiplication per number, an eighth of the standard hash's time.
///
/// Nobody can make keys collide: slots are random, and addresses are those that the hub gave its peers. Who looks up
/// others only finds that they are not there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mix(u64);

/// Odd, with no pattern: 2^64 divided by the golden ratio, and the same of 2^128 (Knuth, TAOCP 3, section 6.4).
const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

impl Mix {
    fn mix(&mut self, high: u64, low: u64) {
        let folded = u128::from(high.rotate_left(32) ^ low ^ self.0);
        let [low_half, high_half] = halves(folded.wrapping_mul(FACTOR));
        self.0 = low_half ^ high_half;
    }
}

/// Lower and upper half.
fn halves(number: u128) -> [u64; 2] {
    let mask = u128::from(u64::MAX);
    [number & mask, number >> 64].map(|half| u64::try_from(half).unwrap_or(0))
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(0, u64::from(*byte).wrapping_add(1));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(0, number.into());
    }

    fn write_u128(&mut self, number: u128) {
        let [low, high] = halves(number);
        self.mix(high, low);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_copy_keeps_what_the_original_changes() {
        let mut map = Shards::default();
        for number in 0..1000u32 {
            map.insert(number, number);
        }
        let copy = map.clone();
        map.insert(7, 70);
        map.remove(&8);
        map.remove(&8);
        assert_eq!((map.get(&7), map.get(&8), map.len()), (Some(&70), None, 999));
        assert_eq!((copy.get(&7), copy.get(&8), copy.len()), (Some(&7), Some(&8), 1000));
    }

    #[test]
    fn neighbours_fall_into_all_parts() {
        let first = u32::from(Ipv4Addr::new(10, 64, 0, 0));
        let v4 = (0..10_000).map(|number| u128::from(first + number) << 96);
        let v6 = (0..10_000).map(|number| (0xfd77 << 112) | number);
        for keys in [v4.collect::<Vec<u128>>(), v6.collect()] {
            let mut counts = [0usize; PARTS];
            keys.iter().for_each(|key| counts[part(key)] += 1);
            let most = counts.iter().max().unwrap();
            assert!(*most < 100, "{most} of 10,000 in one of {PARTS}");
            let mut low: Vec<_> = keys.iter().map(|key| hash(key) % 16_384).collect();
            low.sort_unstable();
            low.dedup();
            assert!(low.len() > 6000, "{} places", low.len());
        }
    }

    fn hash(key: &u128) -> u64 {
        let mut mix = Mix::default();
        key.hash(&mut mix);
        mix.finish()
    }
}
