//! JSON values as the dispatcher handles them: records it must hand back whole, and answers of
//! agents, whose numbers may be strings and the reverse (dispatcher.md §17.9).

pub use miniserde::json::{Array, Number, Object, Value};

/// Most values in one document. Far above any honest answer; a hostile agent could otherwise make
/// 32 bytes of memory of every byte it sends.
const MAX_NODES: usize = 1_000_000;

/// Parses a JSON object. Bytes that are not UTF-8 are replaced, as output of a script may hold any
/// bytes. `None` when this is no JSON, no object, or absurdly large in number of values.
pub fn parse_object(bytes: &[u8]) -> Option<Object> {
    if nodes(bytes) > MAX_NODES {
        return None;
    }
    match miniserde::json::from_str(&String::from_utf8_lossy(bytes)) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// One line of compact JSON, without line end.
pub fn line(value: &impl miniserde::Serialize) -> String {
    miniserde::json::to_string(value)
}

/// An object of the given members.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Object {
    let mut object = Object::new();
    for (key, value) in members {
        object.insert(key.to_owned(), value);
    }
    object
}

/// A string value.
pub fn string(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// A number value.
pub fn int(number: i64) -> Value {
    match u64::try_from(number) {
        Ok(positive) => Value::Number(Number::U64(positive)),
        Err(_) => Value::Number(Number::I64(number)),
    }
}

/// A count as a number value.
pub fn count(number: usize) -> Value {
    Value::Number(Number::U64(number as u64))
}

/// An array of strings.
pub fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Value {
    let mut array = Array::new();
    for item in items {
        array.push(string(item.as_ref()));
    }
    Value::Array(array)
}

/// An array of objects.
pub fn objects(items: impl IntoIterator<Item = Object>) -> Value {
    let mut array = Array::new();
    for item in items {
        array.push(Value::Object(item));
    }
    Value::Array(array)
}

/// The text of a member: a string, or a number written as one. `None` when absent or otherwise.
pub fn text<'a>(object: &'a Object, key: &str) -> Option<std::borrow::Cow<'a, str>> {
    match object.get(key)? {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// A string member, or `""`.
pub fn str_or_empty<'a>(object: &'a Object, key: &str) -> &'a str {
    match object.get(key) {
        Some(Value::String(text)) => text,
        _ => "",
    }
}

/// A whole number member; a string of digits counts, as Perl may have made it one.
pub fn integer(object: &Object, key: &str) -> Option<i64> {
    match object.get(key)? {
        Value::Number(Number::U64(n)) => i64::try_from(*n).ok(),
        Value::Number(Number::I64(n)) => Some(*n),
        Value::Number(Number::F64(n)) if n.fract() == 0.0 => n.to_string().parse().ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Whether a member is true as Perl sees it: `true`, a number but 0, a string but `""` and `"0"`.
pub fn truthy(object: &Object, key: &str) -> bool {
    match object.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(Value::Number(_)) => integer(object, key) != Some(0),
        Some(Value::String(text)) => !text.is_empty() && text != "0",
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// The members of `object` that are strings, as a tag table.
pub fn sub_object<'a>(object: &'a Object, key: &str) -> Option<&'a Object> {
    match object.get(key) {
        Some(Value::Object(inner)) => Some(inner),
        _ => None,
    }
}

/// Upper bound of the number of values in `bytes`: separators outside strings.
fn nodes(bytes: &[u8]) -> usize {
    let mut count = 1;
    let mut quoted = false;
    let mut escaped = false;
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
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
        let deep = [vec![b'['; 2_000_000], vec![b']'; 2_000_000]].concat();
        assert!(parse_object(&[b"{\"a\":", deep.as_slice(), b"}"].concat()).is_none());
        assert!(parse_object(b"{\"out\":\"\xff\"}").is_some());
        assert_eq!(nodes(br#"{"a":"[,,\",{"}"#), 2);
    }
}
