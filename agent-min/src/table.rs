//! A small map for the few things in flight: a plain vector, searched from the front. Even at the
//! limit of connections that costs less than one system call, and little code.

/// Values by key.
pub(crate) struct Table<K, V>(Vec<(K, V)>);

impl<K: Copy + PartialEq, V> Table<K, V> {
    pub(crate) fn new() -> Table<K, V> {
        Table(Vec::new())
    }

    /// Adds a value under a key that is not in the table.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.push((key, value));
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.0
            .iter_mut()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.0.iter().any(|(known, _)| *known == key)
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let at = self.0.iter().position(|(known, _)| *known == key)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.0.iter().map(|(key, value)| (*key, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
