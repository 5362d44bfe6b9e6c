//! JSON as a tree, for tests that look into recordings and answers, change them and write them
//! again. The programs have no such tree: they read what they know and hand on the rest as it came.

use ctrl_exec_protocol::json::{Bounds, Json, Raw, Scalar, lossy};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Index};

/// A JSON value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it was spelled.
    Number(String),
    /// A string, without escapes.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

static NULL: Value = Value::Null;

/// The members of an object in order of their names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Object(BTreeMap<String, Value>);

impl Object {
    /// An object without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// An object of the given members.
    pub fn of<const N: usize>(members: [(&str, Value); N]) -> Self {
        let named = members.map(|(name, value)| (name.to_owned(), value));
        Self(named.into())
    }
}

impl Deref for Object {
    type Target = BTreeMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Object {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// The member, or `null` when there is none.
impl Index<&str> for Object {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&NULL)
    }
}

impl FromIterator<(String, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::collections::btree_map::IntoIter<String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Raw<'_>> for Value {
    fn from(raw: Raw<'_>) -> Self {
        if raw.is_object() {
            let members = raw
                .members()
                .map(|(name, value)| (name.into_owned(), value.into()));
            return Self::Object(members.collect());
        }
        match raw.scalar() {
            Scalar::Null => Self::Null,
            Scalar::Bool(flag) => Self::Bool(flag),
            Scalar::Number(_) => Self::Number(raw.as_str().to_owned()),
            Scalar::Text(text) => Self::String(text),
            Scalar::Compound => Self::Array(raw.items().map(Self::from).collect()),
        }
    }
}

/// Reads any value; `None` for what is no JSON.
pub fn parse_value(text: &[u8]) -> Option<Value> {
    let text = lossy(text);
    Raw::parse(text.as_bytes(), &Bounds::RECORD)
        .ok()
        .map(Value::from)
}

/// Reads an object; `None` for what is none.
pub fn parse_object(text: &[u8]) -> Option<Object> {
    match parse_value(text)? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// What can be written as one line of JSON.
pub trait Render {
    /// Appends the text.
    fn put(&self, out: &mut String);
}

impl Render for Value {
    fn put(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Self::Number(text) => out.push_str(text),
            Self::String(text) => out.push_str(Json::text(text).as_str()),
            Self::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.put(out);
                }
                out.push(']');
            }
            Self::Object(object) => object.put(out),
        }
    }
}

impl Render for Object {
    fn put(&self, out: &mut String) {
        out.push('{');
        for (at, (name, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(Json::text(name).as_str());
            out.push(':');
            value.put(out);
        }
        out.push('}');
    }
}

/// One line of JSON.
pub fn line(value: &impl Render) -> String {
    let mut out = String::new();
    value.put(&mut out);
    out
}

/// The object that a body holds.
pub fn object(body: &str) -> Object {
    parse_object(body.as_bytes()).unwrap_or_else(|| panic!("no JSON object: {body}"))
}

/// A member of a body's object as text; empty when it is not there.
pub fn text(body: &str, name: &str) -> String {
    text_of(&object(body), name)
}

/// A member of a body's object that must be an integer.
pub fn int(body: &str, name: &str) -> i64 {
    integer(&object(body), name).unwrap_or_else(|| panic!("no integer {name}: {body}"))
}

/// A string.
pub fn string(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// A number.
pub fn number(number: i64) -> Value {
    Value::Number(number.to_string())
}

/// The string member `name`.
pub fn str_of<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    match &object[name] {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// A string member, or `""`.
pub fn str_or_empty<'a>(object: &'a Object, name: &str) -> &'a str {
    str_of(object, name).unwrap_or_default()
}

/// A scalar as text; `None` for arrays and objects.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        Value::Number(text) | Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A member as text by [`scalar_text`]; empty for what is none.
pub fn text_of(object: &Object, name: &str) -> String {
    scalar_text(&object[name]).unwrap_or_default()
}

/// A member as a whole number; strings of digits count.
pub fn integer(object: &Object, name: &str) -> Option<i64> {
    match &object[name] {
        Value::Number(text) | Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The strings of an array member.
pub fn texts_of(object: &Object, name: &str) -> Vec<String> {
    match &object[name] {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| match item {
                Value::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The member `name`, if it is an object.
pub fn sub_object<'a>(object: &'a Object, name: &str) -> Option<&'a Object> {
    match &object[name] {
        Value::Object(inner) => Some(inner),
        _ => None,
    }
}
