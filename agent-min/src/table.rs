//! A map of fixed size for the few things in flight, searched from the front. Even when it is full
//! that costs less than one system call, and little code.
//!
//! Its capacity is the most that any configuration may ask for; settings are limits below it. It
//! lies on the heap as one block that is never grown, of which only what is used becomes resident.

use heapless::LinearMap;

/// Up to `N` values by key.
pub(crate) struct Table<K, V, const N: usize>(Box<LinearMap<K, V, N>>);

impl<K: Copy + Eq, V, const N: usize> Table<K, V, N> {
    pub(crate) fn new() -> Self {
        Table(Box::new(LinearMap::new()))
    }

    /// Adds a value under a key that is not in the table. False when the table is full, and the
    /// value is dropped: ask [`Table::is_full`] before what cannot be taken back.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        self.0.insert(key, value).is_ok()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() == N
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.0.get_mut(&key)
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.0.contains_key(&key)
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        self.0.remove(&key)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (*key, value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.0.iter().map(|(key, value)| (*key, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_takes_nothing_and_loses_nothing() {
        let mut table: Table<u32, String, 3> = Table::new();
        for key in 0..3 {
            assert!(!table.is_full());
            assert!(table.insert(key, key.to_string()));
        }
        assert!(table.is_full());
        assert!(!table.insert(9, "nine".into()));
        assert_eq!(table.len(), 3);
        assert!(!table.contains(9));
        assert_eq!(table.remove(1).as_deref(), Some("1"));
        assert!(table.insert(9, "nine".into()));
        let mut left: Vec<u32> = table.iter().map(|(key, _)| key).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2, 9]);
    }
}
