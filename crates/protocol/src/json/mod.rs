//! JSON that may come from a peer, on `miniserde`, with what it lacks.
//!
//! Messages are derived types ([`read_object`], [`Fields`]). Before anything is made of a text, one
//! pass counts its values and their depth against [`Bounds`], and puts numbers that no machine
//! number holds as they are into the form in which the reference prints them. [`Raw`] is a value as
//! it came, for what is passed on unchanged. [`Scalar`] reads members for which peers take numbers,
//! texts and truths as they come.
//!
//! The tree ([`Value`], [`Object`]) and its reader and writer are what the dispatcher keeps records
//! in until those are typed too.

mod bounds;
mod derived;
mod number;
mod raw;
mod reader;
mod scalar;
#[cfg(test)]
mod tests;
mod value;
mod writer;

pub use derived::{Fields, array_of, read_object, read_object_or_null};
pub use raw::Raw;
pub use scalar::{Scalar, Scalars};
pub use value::{Number, Object, Value};
pub use writer::{Render, Writer, canonical, object, push_string, raw_array, render, string_array};

use reader::{Want, read};
use std::fmt;

/// What a text may contain at the most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Values and member names.
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
    Syntax(Fault),
    /// The text holds more than the bounds allow.
    TooComplex(Fault),
}

/// A place in a text, and what is wrong there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Offset in bytes.
    pub at: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::Syntax(fault) | Self::TooComplex(fault) => {
                write!(f, "{} at byte {}", fault.what, fault.at)
            }
        }
    }
}

impl std::error::Error for JsonError {}

/// Parses any JSON value within `bounds`.
pub fn parse_value(text: &[u8], bounds: &Bounds) -> Result<Value, JsonError> {
    read(text, bounds, Want::All)
}

/// Parses a JSON object within `bounds`.
pub fn parse_object(text: &[u8], bounds: &Bounds) -> Result<Object, JsonError> {
    into_object(read(text, bounds, Want::All)?)
}

/// Parses a JSON object within `bounds`, of which only the members `names` are kept. The others
/// are checked, but take no memory.
pub fn parse_members(text: &[u8], names: &[&str], bounds: &Bounds) -> Result<Object, JsonError> {
    into_object(read(text, bounds, Want::Members(names))?)
}

fn into_object(value: Value) -> Result<Object, JsonError> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError::NotAnObject),
    }
}

/// How many bytes stand in a string as they are, before one that has to be escaped or ends it.
fn plain_length(text: &[u8]) -> usize {
    let special = text
        .iter()
        .position(|b| matches!(b, b'"' | b'\\' | ..=0x1f));
    special.unwrap_or(text.len())
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
        Value::Number(number) => number.as_i64(),
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
/// `null` is empty, numbers are in Perl's print form (agent.md §2.1). `None` for arrays and
/// objects.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(flag) => Some(if *flag { "1" } else { "0" }.to_owned()),
        Value::Number(number) => Some(number.print_form()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Scalars as texts by [`scalar_text`]. `None` if one of them is no scalar.
pub fn scalar_texts(values: &[Value]) -> Option<Vec<String>> {
    let mut texts = Vec::with_capacity(values.len());
    for value in values {
        texts.push(scalar_text(value)?);
    }
    Some(texts)
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
        Some(Value::Number(number)) => !number.is_zero(),
        Some(Value::String(text)) => !text.is_empty() && text != "0",
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// Bytes as text: UTF-8 as it is, what is not UTF-8 replaced by U+FFFD.
pub fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
