//! JSON that may come from a peer: bounded before it is parsed, and written compactly.
//!
//! `miniserde` does the parsing. A parsed value takes up to some forty times the room of its text
//! (`[0,0,0,…]`), so [`parse_object`] first counts what the text would become and refuses more than
//! its [`Bounds`] allow.

pub use miniserde::json::{Array, Number, Object, Value};
use std::fmt;

/// What a text may contain at the most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Values, counted as one for each `,`, `:`, `[` and `{` outside strings.
    pub max_nodes: usize,
    /// Nested arrays and objects.
    pub max_depth: usize,
}

impl Bounds {
    /// For requests: a thousand arguments and then some.
    pub const REQUEST: Self = Self {
        max_nodes: 4096,
        max_depth: 32,
    };
    /// For answers of agents and for files of our own, such as capability lists.
    pub const ANSWER: Self = Self {
        max_nodes: 262_144,
        max_depth: 64,
    };
}

/// Why a text is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JsonError {
    /// The text is JSON, but not an object.
    NotAnObject,
    /// The text is not JSON, or not UTF-8.
    Syntax,
    /// The text holds more than the bounds allow.
    TooComplex,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnObject => "not a JSON object",
            Self::Syntax => "invalid JSON",
            Self::TooComplex => "JSON has too many or too deeply nested values",
        })
    }
}

impl std::error::Error for JsonError {}

/// Parses any JSON value within `bounds`.
pub fn parse_value(text: &[u8], bounds: &Bounds) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(text).map_err(|_| JsonError::Syntax)?;
    check_bounds(text.as_bytes(), bounds)?;
    miniserde::json::from_str(text).map_err(|_| JsonError::Syntax)
}

/// Parses a JSON object within `bounds`.
pub fn parse_object(text: &[u8], bounds: &Bounds) -> Result<Object, JsonError> {
    match parse_value(text, bounds)? {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError::NotAnObject),
    }
}

/// The string member `key`, if it is there and a string.
pub fn str_of<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    match object.get(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// The member `key` as an integer; a numeric string counts too, since peers' JSON libraries let
/// numbers become strings (dispatcher.md §17.9).
pub fn int_of(object: &Object, key: &str) -> Option<i64> {
    match object.get(key)? {
        Value::Number(Number::U64(n)) => i64::try_from(*n).ok(),
        Value::Number(Number::I64(n)) => Some(*n),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The member `key` as a TCP port, 1 to 65535.
pub fn port_of(object: &Object, key: &str) -> Option<u16> {
    u16::try_from(int_of(object, key)?)
        .ok()
        .filter(|port| *port != 0)
}

/// A scalar as text, the way the reference turns one into a string: `true` is `1`, `false` is `0`,
/// `null` is empty (agent.md §2.1). `None` for arrays and objects.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(flag) => Some(if *flag { "1" } else { "0" }.to_owned()),
        Value::Number(number) => Some(match number {
            Number::U64(n) => n.to_string(),
            Number::I64(n) => n.to_string(),
            Number::F64(n) => n.to_string(),
        }),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// The member `key` as text by [`scalar_text`]; empty when it is absent or no scalar.
pub fn text_of(object: &Object, key: &str) -> String {
    object.get(key).and_then(scalar_text).unwrap_or_default()
}

/// Whether the reference's language takes the member `key` for true: not absent, not `false`,
/// `null`, `0`, `"0"` or `""`.
pub fn truthy(object: &Object, key: &str) -> bool {
    match object.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(Number::F64(n))) => *n != 0.0,
        Some(Value::Number(Number::U64(n))) => *n != 0,
        Some(Value::Number(Number::I64(n))) => *n != 0,
        Some(Value::String(text)) => !text.is_empty() && text != "0",
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// The text of a value: compact, members in key order.
pub fn render(value: &Value) -> String {
    miniserde::json::to_string(value)
}

/// Bytes as text: UTF-8 as it is, what is not UTF-8 replaced by U+FFFD.
pub fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Starts a compact JSON object whose members stand in the order they are added.
pub fn object() -> Writer {
    Writer {
        out: String::from("{"),
        first: true,
    }
}

/// Writes one JSON object; see [`object`].
#[derive(Clone, Debug)]
pub struct Writer {
    out: String,
    first: bool,
}

impl Writer {
    /// Adds a string.
    #[must_use]
    pub fn str(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        push_string(&mut self.out, value);
        self
    }

    /// Adds a string when there is one.
    #[must_use]
    pub fn opt_str(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.str(key, value),
            None => self,
        }
    }

    /// Adds an integer.
    #[must_use]
    pub fn int(mut self, key: &str, value: i64) -> Self {
        self.key(key);
        self.out.push_str(&value.to_string());
        self
    }

    /// Adds a boolean.
    #[must_use]
    pub fn bool(mut self, key: &str, value: bool) -> Self {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
        self
    }

    /// Adds an array of strings.
    #[must_use]
    pub fn strings<S: AsRef<str>>(
        mut self,
        key: &str,
        values: impl IntoIterator<Item = S>,
    ) -> Self {
        self.key(key);
        push_strings(&mut self.out, values);
        self
    }

    /// Adds text that is JSON already.
    #[must_use]
    pub fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.out.push_str(json);
        self
    }

    /// Adds a parsed value.
    #[must_use]
    pub fn value(self, key: &str, value: &Value) -> Self {
        self.raw(key, &render(value))
    }

    /// The finished text.
    pub fn finish(mut self) -> String {
        self.out.push('}');
        self.out
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        push_string(&mut self.out, key);
        self.out.push(':');
    }
}

/// A JSON array of strings.
pub fn string_array<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let mut out = String::new();
    push_strings(&mut out, values);
    out
}

/// A JSON array of texts that are JSON already.
pub fn raw_array<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let mut out = String::from("[");
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(value.as_ref());
    }
    out.push(']');
    out
}

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + 2);
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..=0x1f => {
                out.push_str(&text[plain..at]);
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
                plain = at + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[plain..at]);
        out.push_str(escape);
        plain = at + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

fn push_strings<S: AsRef<str>>(out: &mut String, values: impl IntoIterator<Item = S>) {
    out.push('[');
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_string(out, value.as_ref());
    }
    out.push(']');
}

fn check_bounds(text: &[u8], bounds: &Bounds) -> Result<(), JsonError> {
    let (mut nodes, mut depth) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                nodes += 1;
                depth += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' | b':' => nodes += 1,
            _ => {}
        }
        if nodes > bounds.max_nodes || depth > bounds.max_depth {
            return Err(JsonError::TooComplex);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDE: Bounds = Bounds::ANSWER;

    #[test]
    fn refuses_what_is_no_object() {
        for text in ["[]", "5", "\"x\"", "null", "true"] {
            assert_eq!(
                parse_object(text.as_bytes(), &WIDE).err(),
                Some(JsonError::NotAnObject),
                "{text}"
            );
        }
        for text in ["", "{nope", "{\"a\":1", "{\"a\":1}x", "\u{0}"] {
            assert_eq!(
                parse_object(text.as_bytes(), &WIDE).err(),
                Some(JsonError::Syntax),
                "{text}"
            );
        }
        assert_eq!(
            parse_object(b"{\"a\":\"\xff\"}", &WIDE).err(),
            Some(JsonError::Syntax)
        );
    }

    #[test]
    fn bounds_are_checked_before_parsing() {
        let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(5000));
        assert_eq!(
            parse_object(wide.as_bytes(), &Bounds::REQUEST).err(),
            Some(JsonError::TooComplex)
        );
        assert!(parse_object(wide.as_bytes(), &WIDE).is_ok());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert_eq!(
            parse_object(deep.as_bytes(), &WIDE).err(),
            Some(JsonError::TooComplex)
        );
        let quoted = format!(
            "{{\"a\":\"{}\\\"{}\"}}",
            "[,{:".repeat(2000),
            "[".repeat(100)
        );
        assert!(parse_object(quoted.as_bytes(), &Bounds::REQUEST).is_ok());
    }

    #[test]
    fn scalars_as_the_reference_reads_them() {
        let object = parse_object(
            br#"{"t":true,"f":false,"n":null,"i":1,"d":1.5,"w":1.0,"s":"x","z":"0","e":"","p":"7443","a":[]}"#,
            &WIDE,
        )
        .unwrap();
        for (key, text, truth) in [
            ("t", "1", true),
            ("f", "0", false),
            ("n", "", false),
            ("i", "1", true),
            ("d", "1.5", true),
            ("w", "1", true),
            ("s", "x", true),
            ("z", "0", false),
            ("e", "", false),
            ("a", "", true),
            ("absent", "", false),
        ] {
            assert_eq!(text_of(&object, key), text, "{key}");
            assert_eq!(truthy(&object, key), truth, "{key}");
        }
        assert_eq!(port_of(&object, "p"), Some(7443));
        assert_eq!(port_of(&object, "i"), Some(1));
        assert_eq!(port_of(&object, "z"), None);
    }

    #[test]
    fn writes_compact_json() {
        let text = object()
            .str("a", "q\"\\\n\u{1}\u{7f}é")
            .int("i", -1)
            .bool("b", true)
            .strings("l", ["x", ""])
            .raw("r", "{}")
            .opt_str("none", None)
            .finish();
        assert_eq!(
            text,
            "{\"a\":\"q\\\"\\\\\\n\\u0001\u{7f}é\",\"i\":-1,\"b\":true,\"l\":[\"x\",\"\"],\"r\":{}}"
        );
    }

    proptest! {
        #[test]
        fn strings_round_trip(text in any::<String>()) {
            let json = object().str("k", &text).finish();
            let object = parse_object(json.as_bytes(), &WIDE).unwrap();
            prop_assert_eq!(str_of(&object, "k"), Some(text.as_str()));
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_object(&bytes, &Bounds::REQUEST);
        }
    }
}
