//! JSON values as the dispatcher handles them: records it must hand back whole, and answers of
//! agents, whose numbers may be strings and the reverse (dispatcher.md §17.9).

use ctrl_exec_protocol::json::{self, Bounds};
pub use ctrl_exec_protocol::json::{Number, Object, Value, render as line, truthy};

/// Far above any honest answer; a hostile agent could otherwise make 60 bytes of memory of every
/// byte it sends. Deeper than what an agent takes for a schema, which it hands on within an answer.
const BOUNDS: Bounds = Bounds {
    max_nodes: 1_000_000,
    max_depth: 128,
};

/// Parses a JSON object. Bytes that are not UTF-8 are replaced, as output of a script may hold any
/// bytes. `None` when this is no JSON, no object, or absurdly large in number of values.
pub fn parse_object(bytes: &[u8]) -> Option<Object> {
    json::parse_object(json::lossy(bytes).as_bytes(), &BOUNDS).ok()
}

/// An object of the given members.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Object {
    members
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Adds a member, unless there is one of that name.
pub fn set_default(object: &mut Object, key: &str, value: Value) {
    if !object.contains_key(key) {
        object.insert(key.to_owned(), value);
    }
}

/// A string value.
pub fn string(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// A number value.
pub fn int(number: i64) -> Value {
    Value::Number(number.into())
}

/// A count as a number value.
pub fn count(number: usize) -> Value {
    Value::Number((number as u64).into())
}

/// An array of strings.
pub fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Value {
    Value::Array(
        items
            .into_iter()
            .map(|item| string(item.as_ref()))
            .collect(),
    )
}

/// An array of objects.
pub fn objects(items: impl IntoIterator<Item = Object>) -> Value {
    Value::Array(items.into_iter().map(Value::Object).collect())
}

/// The text of a member: a string, or a number written as one. `None` when absent or otherwise.
pub fn text<'a>(object: &'a Object, key: &str) -> Option<std::borrow::Cow<'a, str>> {
    match object.get(key)? {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.as_str().into()),
        _ => None,
    }
}

/// A string member, or `""`.
pub fn str_or_empty<'a>(object: &'a Object, key: &str) -> &'a str {
    json::str_of(object, key).unwrap_or_default()
}

/// A whole number member, also when spelled with a fraction of zero; a string of digits counts, as
/// Perl may have made it one.
pub fn integer(object: &Object, key: &str) -> Option<i64> {
    match object.get(key)? {
        Value::Number(number) => number.print_form().parse().ok(),
        _ => json::int_of(object, key),
    }
}

/// The member `key`, if it is an object.
pub fn sub_object<'a>(object: &'a Object, key: &str) -> Option<&'a Object> {
    match object.get(key) {
        Some(Value::Object(inner)) => Some(inner),
        _ => None,
    }
}

/// Takes a member out that is a string; another stays.
pub fn take_text(object: &mut Object, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::String(_) => match object.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Takes a member out that [`integer`] reads; another stays.
pub fn take_integer(object: &mut Object, key: &str) -> Option<i64> {
    let number = integer(object, key)?;
    object.remove(key);
    Some(number)
}

/// Takes a member out that is Perl's idea of true; another stays.
pub fn take_true(object: &mut Object, key: &str) -> bool {
    let is_true = truthy(object, key);
    if is_true {
        object.remove(key);
    }
    is_true
}

/// Puts a string member, if there is one.
pub fn put_text(object: &mut Object, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        object.insert(key.to_owned(), string(text));
    }
}

/// Puts a number member, if there is one.
pub fn put_integer(object: &mut Object, key: &str, number: Option<i64>) {
    if let Some(number) = number {
        object.insert(key.to_owned(), int(number));
    }
}

/// The strings of an array member; none when it is no array.
pub fn texts_of(object: &Object, key: &str) -> Vec<String> {
    match object.get(key) {
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(|item| match item {
                Value::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_read_alike() {
        let object =
            parse_object(br#"{"a":"7443","b":7443,"c":-1,"d":7.0,"e":"x","f":7.5}"#).unwrap();
        assert_eq!(integer(&object, "a"), Some(7443));
        assert_eq!(integer(&object, "b"), Some(7443));
        assert_eq!(integer(&object, "c"), Some(-1));
        assert_eq!(integer(&object, "d"), Some(7));
        assert_eq!(integer(&object, "e"), None);
        assert_eq!(integer(&object, "f"), None);
        assert_eq!(text(&object, "c").as_deref(), Some("-1"));
    }

    #[test]
    fn perl_truth() {
        let object =
            parse_object(br#"{"a":1,"b":0,"c":"0","d":"","e":"no","f":true,"g":null}"#).unwrap();
        let truths: Vec<bool> = "abcdefgh"
            .chars()
            .map(|k| truthy(&object, &k.to_string()))
            .collect();
        assert_eq!(
            truths,
            [true, false, false, false, true, true, false, false]
        );
    }

    #[test]
    fn only_objects_of_sane_size() {
        assert!(parse_object(b"[]").is_none());
        assert!(parse_object(b"hello").is_none());
        assert!(parse_object(b"").is_none());
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        let within = |value: Vec<u8>| [b"{\"a\":", value.as_slice(), b"}"].concat();
        assert!(parse_object(&within(nested(2_000_000))).is_none());
        assert!(parse_object(&within(nested(100))).is_some());
        assert!(parse_object(&within(format!("[{}0]", "0,".repeat(999_995)).into())).is_some());
        assert!(parse_object(&within(format!("[{}0]", "0,".repeat(1_000_000)).into())).is_none());
        assert!(parse_object(b"{\"out\":\"\xff\"}").is_some());
    }

    #[test]
    fn numbers_are_handed_back_as_they_were() {
        let text = r#"{"a":1.0,"b":[1e3,-0,12345678901234567890123],"c":0.10}"#;
        assert_eq!(line(&parse_object(text.as_bytes()).unwrap()), text);
    }
}
