//! A small map from text, kept as a sorted list.
//!
//! Configuration and trust have tens of entries, read often and changed hardly ever. A list takes
//! less memory than a tree for that, and a seventh of its code: 9 KB of a router's flash.

use std::fmt;
use std::ops::Index;

/// A map from text to `V`, in the order of the keys' bytes. Finding takes logarithmic time,
/// inserting moves what stands behind.
#[derive(Clone, PartialEq, Eq)]
pub struct SortedMap<V> {
    entries: Vec<(String, V)>,
}

impl<V> SortedMap<V> {
    /// An empty map.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&V> {
        let at = self.position(key).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    /// Whether there is a value for `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_ok()
    }

    /// Sets the value of `key`; the former one, if there was one.
    pub fn insert(&mut self, key: String, value: V) -> Option<V> {
        match self.position(&key) {
            Ok(at) => self
                .entries
                .get_mut(at)
                .map(|(_, old)| std::mem::replace(old, value)),
            Err(at) => {
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes `key` out; its value, if there was one.
    pub fn remove(&mut self, key: &str) -> Option<V> {
        let at = self.position(key).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> Iter<'_, V> {
        self.entries.iter().map(pair::<V>)
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    fn position(&self, key: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|(known, _)| known.as_str().cmp(key))
    }
}

impl<V: Default> SortedMap<V> {
    /// The value of `key`, made if there is none.
    pub fn get_or_default(&mut self, key: &str) -> &mut V {
        let at = match self.position(key) {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, (key.to_owned(), V::default()));
                at
            }
        };
        &mut self.entries[at].1
    }
}

impl<V> Default for SortedMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: fmt::Debug> fmt::Debug for SortedMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// For text that is known to be there.
impl<V> Index<&str> for SortedMap<V> {
    type Output = V;

    #[expect(
        clippy::expect_used,
        reason = "the contract of indexing, as for the maps of std"
    )]
    fn index(&self, key: &str) -> &V {
        self.get(key).expect("no such key")
    }
}

/// In one sort, however the pairs come; of several with one key the last counts.
impl<V> FromIterator<(String, V)> for SortedMap<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(pairs: I) -> Self {
        let mut entries: Vec<(String, V)> = pairs.into_iter().collect();
        // Stable, so that the last of several stays the last; turned around, the first is kept.
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|later, kept| later.0 == kept.0);
        Self { entries }
    }
}

/// Keys and values of a [`SortedMap`].
pub type Iter<'a, V> =
    std::iter::Map<std::slice::Iter<'a, (String, V)>, fn(&(String, V)) -> (&String, &V)>;

fn pair<V>(entry: &(String, V)) -> (&String, &V) {
    (&entry.0, &entry.1)
}

impl<'a, V> IntoIterator for &'a SortedMap<V> {
    type Item = (&'a String, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_several_pairs_with_one_key_the_last_counts() {
        let pairs = [("b", 1), ("a", 2), ("b", 3), ("a", 4)];
        let map: SortedMap<i32> = pairs.map(|(k, v)| (k.to_owned(), v)).into_iter().collect();
        assert_eq!(format!("{map:?}"), r#"{"a": 4, "b": 3}"#);
        assert_eq!(map["b"], 3);
        assert_eq!(map.get("c"), None);
    }

    proptest! {
        #[test]
        fn behaves_as_the_map_of_std(steps in prop::collection::vec((0u8..4, "[a-d]{0,2}", any::<u8>()), 0..60)) {
            let mut ours = SortedMap::new();
            let mut theirs = BTreeMap::new();
            for (kind, key, value) in steps {
                match kind {
                    0 | 1 => prop_assert_eq!(ours.insert(key.clone(), value), theirs.insert(key, value)),
                    2 => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
                    _ => prop_assert_eq!(*ours.get_or_default(&key), *theirs.entry(key).or_default()),
                }
                prop_assert!(ours.iter().eq(theirs.iter()));
                prop_assert_eq!(ours.len(), theirs.len());
            }
        }
    }
}
