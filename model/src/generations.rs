//! A map of bounded size that keeps what is used: for what can be had again, at a price.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// Two generations of entries. New ones go to the young; when it is full it becomes the old one, and the old one
/// goes, with all that was not used since it was young. So a look-up moves nothing, and nothing is sorted by its age.
#[derive(Debug, Clone)]
pub struct Generations<K, V> {
    size: usize,
    // Hashed, not sorted: with ten thousand entries a search among sorted ones waits for memory at every step.
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

/// Where an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<V> {
    /// It stays for now.
    Young(V),
    /// It goes with the next turn, unless it is renewed.
    Old(V),
}

// === impl Generations ===

impl<K: Hash + Eq, V> Generations<K, V> {
    /// Nothing yet, and never more than `size` entries in each generation.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// The entry of this key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Found<&V>>
    where
        K: Borrow<Q>,
    {
        let young = self.young.get(key).map(Found::Young);
        young.or_else(|| self.old.get(key).map(Found::Old))
    }

    /// Keeps an old entry for another generation. What goes for it comes back, as from [`Generations::insert`].
    #[must_use = "dropping it takes long: let go of locks before"]
    pub fn renew<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> HashMap<K, V>
    where
        K: Borrow<Q>,
    {
        match self.old.remove_entry(key) {
            Some((key, value)) => self.insert(key, value),
            None => HashMap::new(),
        }
    }

    /// Adds an entry. What goes for it comes back, a whole generation once in a while: to be dropped where nobody waits.
    #[must_use = "dropping it takes long: let go of locks before"]
    pub fn insert(&mut self, key: K, value: V) -> HashMap<K, V> {
        let mut gone = HashMap::new();
        if self.young.len() >= self.size {
            gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        self.young.insert(key, value);
        gone
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

impl<V> Found<V> {
    /// What was found, and whether it has to be renewed.
    pub fn parts(self) -> (V, bool) {
        match self {
            Self::Young(value) => (value, false),
            Self::Old(value) => (value, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_renewed_stays_and_the_rest_goes() {
        let mut kept = Generations::new(10);
        for n in 0..100 {
            drop(kept.insert(n, n * 2));
            if matches!(kept.get(&0), Some(Found::Old(_))) {
                drop(kept.renew(&0));
            }
        }
        assert_eq!(
            kept.get(&0).map(Found::parts).map(|(value, _)| *value),
            Some(0)
        );
        assert_eq!(kept.get(&99), Some(Found::Young(&198)));
        assert_eq!(kept.get(&50), None);
        let count = (0..100).filter(|n| kept.get(n).is_some()).count();
        assert!((11..=20).contains(&count), "{count}");
    }

    #[test]
    fn what_is_removed_is_gone_from_both() {
        let mut kept = Generations::new(1);
        assert!(kept.insert(1, ()).is_empty());
        assert!(kept.insert(2, ()).is_empty(), "the first one is old now");
        kept.remove(&1);
        kept.remove(&2);
        assert_eq!((kept.get(&1), kept.get(&2)), (None, None));
    }
}
