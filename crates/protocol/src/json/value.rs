//! Values in memory.

use super::number;
use std::fmt;
use std::ops::Index;

/// A JSON value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string, without escapes.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

static NULL: Value = Value::Null;

/// A number as it was spelled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Number(Box<str>);

impl Number {
    /// `text` must be a number of JSON.
    pub(super) fn spelled(text: &str) -> Self {
        Self(text.into())
    }

    /// The spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value, if it is spelled as an integer and fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// The value, if it is spelled as an integer and fits.
    pub fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Whether it is 0, however spelled.
    pub fn is_zero(&self) -> bool {
        let mut mantissa = self.0.bytes().take_while(|b| !matches!(b, b'e' | b'E'));
        mantissa.all(|b| !matches!(b, b'1'..=b'9'))
    }

    /// As Perl prints it: `1.0` is `1`, with at most 15 significant digits; integers of any length
    /// stay as they are.
    pub fn print_form(&self) -> String {
        number::print_form(&self.0)
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self(number.to_string().into())
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The members of an object in code point order of their names, each name once.
///
/// A sorted list: it is smaller than a tree for the objects at hand, both in memory and in code.
/// Make large ones by [`collect`](Iterator::collect), not by many [`Object::insert`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    /// An object without members.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes members in any order. Of several with one name the last counts.
    pub(super) fn of(mut members: Vec<(String, Value)>) -> Self {
        if !members.is_sorted_by(|a, b| a.0 < b.0) {
            // UTF-8 sorts by code point. The sort is stable, so the last is still the last.
            members.sort_by(|a, b| a.0.cmp(&b.0));
            members.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
        }
        Self(members)
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| name.as_str().cmp(key))
    }

    /// The member `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.find(key).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// The member `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let at = self.find(key).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// Whether there is a member `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Sets a member; the one it replaces is returned.
    pub fn insert(&mut self, key: String, value: Value) -> Option<Value> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.find(key).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members, in order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The members, to be changed, in order of their names.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut Value)> {
        self.0
            .iter_mut()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// The names, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

/// The member, or `null` when there is none.
impl Index<&str> for Object {
    type Output = Value;

    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Of several members with one name the last counts.
impl FromIterator<(String, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(members: I) -> Self {
        Self::of(members.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn number(text: &str) -> Number {
        Number::spelled(text)
    }

    #[test]
    fn integers_that_fit() {
        assert_eq!(number("-5").as_i64(), Some(-5));
        assert_eq!(number("-0").as_i64(), Some(0));
        assert_eq!(number("9223372036854775808").as_i64(), None);
        assert_eq!(
            number("18446744073709551615").as_u64(),
            Some(18_446_744_073_709_551_615)
        );
        assert_eq!(number("1.0").as_i64(), None);
        assert_eq!(number("1e2").as_u64(), None);
        assert_eq!(Number::from(-7_i64), number("-7"));
        for (text, zero) in [
            ("0", true),
            ("-0.00E+5", true),
            ("0e1", true),
            ("10", false),
            ("0.001", false),
        ] {
            assert_eq!(number(text).is_zero(), zero, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_object_is_a_sorted_map(
            given in proptest::collection::vec(("[a-cé]{0,2}", any::<u64>()), 0..20),
            changes in proptest::collection::vec(("[a-cé]{0,2}", proptest::option::of(any::<u64>())), 0..20),
        ) {
            let mut model: BTreeMap<String, u64> = given.iter().cloned().collect();
            let value = |n: u64| Value::Number(n.into());
            let mut object: Object = given.into_iter().map(|(name, n)| (name, value(n))).collect();
            for (name, change) in changes {
                prop_assert_eq!(object.contains_key(&name), model.contains_key(&name));
                let (ours, theirs) = match change {
                    Some(n) => (object.insert(name.clone(), value(n)), model.insert(name, n)),
                    None => (object.remove(&name), model.remove(&name)),
                };
                prop_assert_eq!(ours, theirs.map(value));
            }
            let expected: Vec<_> = model.into_iter().map(|(name, n)| (name, value(n))).collect();
            prop_assert_eq!(object.len(), expected.len());
            prop_assert_eq!(object.into_iter().collect::<Vec<_>>(), expected);
        }
    }
}
