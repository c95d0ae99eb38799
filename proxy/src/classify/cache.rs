//! A map bounded in bytes, without a clock and without chains: what was not asked for since half of the room was filled goes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// For keys that are keyed hashes, or numbers of ours spread over all bits: hashing them again would be for nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.rotate_left(23) ^ word;
    }
}

type Map<K, V> = HashMap<K, (V, usize), BuildHasherDefault<AlreadyHashed>>;

/// The map: two halves, young and old. What is found in the old half moves to the young one.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    young: Map<K, V>,
    old: Map<K, V>,
    young_bytes: usize,
    half: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    /// Holds about `bytes` in all.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            young: Map::default(),
            old: Map::default(),
            young_bytes: 0,
            half: bytes / 2,
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (value, bytes) = self.old.remove(key)?;
        self.put(*key, value.clone(), bytes);
        Some(value)
    }

    /// Keeps `value`, which costs `bytes`; nothing that would fill a half by itself is kept.
    pub(crate) fn put(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.half {
            return;
        }
        if self.young_bytes + bytes > self.half {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if let Some((_, before)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= before;
        }
        self.young_bytes += bytes;
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.young_bytes = 0;
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut cache: Cache<(u64, u64), u32> = Cache::new(1000);
        cache.put((1, 1), 1, 10);
        for n in 2..10_000 {
            cache.put((n, n), 0, 10);
            if n % 20 == 0 {
                assert_eq!(cache.get(&(1, 1)), Some(1), "after {n}");
            }
            assert!(cache.len() <= 100);
        }
        assert_eq!(cache.get(&(2, 2)), None);
    }

    #[test]
    fn a_value_larger_than_half_of_it_is_not_kept() {
        let mut cache: Cache<(u64, u64), u32> = Cache::new(1000);
        cache.put((1, 1), 1, 501);
        assert_eq!(cache.get(&(1, 1)), None);
    }
}
