//! A map that is bounded in number. In: keys and values. Out: those that were used lately; what was not used while as many
//! others were as half of it holds may be forgotten.

use std::collections::HashMap;
use std::hash::Hash;

/// Two halves: what is used moves to the young one; when that is full it becomes the old one, and what was old is dropped.
pub(in crate::server) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Clone + Eq + Hash, V: Default> Recent<K, V> {
    /// At most `capacity` entries.
    pub(in crate::server) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The value of a key, or a new one.
    pub(in crate::server) fn entry(&mut self, key: &K) -> &mut V {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key).unwrap_or_default();
            if self.young.len() >= self.half {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(key.clone(), value);
        }
        self.young.entry(key.clone()).or_default()
    }

    /// What is remembered of a key; asking is not using.
    pub(in crate::server) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Whether a key is remembered; asking is not using.
    pub(in crate::server) fn contains(&self, key: &K) -> bool {
        self.young.contains_key(key) || self.old.contains_key(key)
    }

    /// Forgets a key.
    pub(in crate::server) fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_number_is_bounded() {
        let mut recent = Recent::<u32, u32>::new(10);
        *recent.entry(&0) = 7;
        for key in 1..1000 {
            *recent.entry(&key) = key;
            assert_eq!(*recent.entry(&0), 7);
            assert!(recent.young.len() + recent.old.len() <= 10);
        }
        assert!(recent.contains(&999) && !recent.contains(&1));
        assert_eq!((recent.get(&999), recent.get(&1)), (Some(&999), None));
        assert_eq!((recent.remove(&0), recent.contains(&0)), (Some(7), false));
    }
}
