//! A fixed number of locks for any number of keys.

use std::hash::{BuildHasher, Hash, RandomState};

/// A set of locks; each key is assigned one of them. Two keys may share a lock, so hold only
/// one at a time.
///
/// The hash is seeded at random, so an attacker cannot choose keys that share a lock.
pub struct Striped<L> {
    locks: Box<[L]>,
    hasher: RandomState,
}

impl<L: Default> Striped<L> {
    /// Creates `count` locks, at least one.
    pub fn new(count: usize) -> Self {
        let locks = (0..count.max(1)).map(|_| L::default()).collect();
        Self { locks, hasher: RandomState::new() }
    }
}

impl<L> Striped<L> {
    /// The lock of `key`: always the same one.
    pub fn of(&self, key: &impl Hash) -> &L {
        let hash = self.hasher.hash_one(key);
        &self.locks[(hash % self.locks.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn a_key_keeps_its_lock() {
        let locks = Striped::<Mutex<()>>::new(8);
        for key in 0..100u32 {
            assert!(std::ptr::eq(locks.of(&key), locks.of(&key)), "key {key} has two locks");
        }
    }

    #[test]
    fn keys_are_spread_over_the_locks() {
        let locks = Striped::<Mutex<()>>::new(8);
        let used: std::collections::HashSet<_> =
            (0..1000u32).map(|key| std::ptr::from_ref(locks.of(&key))).collect();
        assert_eq!(used.len(), 8, "1000 keys use all of 8 locks");
    }
}
