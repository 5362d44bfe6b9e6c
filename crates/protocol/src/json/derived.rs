//! Derived types, read within bounds and written with members that may be left out.

use super::bounds::prepare;
use super::scalar::Anything;
use super::{Bounds, Fault, JsonError};
use miniserde::de::Deserialize;
use miniserde::json::from_str;
use std::fmt::{Display, Write};

/// Reads an object as a derived type. Members that the type does not know are checked, but take no
/// memory; of several with one name the last counts.
///
/// # Errors
/// It is not JSON, no object, holds too much, or a member does not fit the type.
pub fn read_object<T: Deserialize>(text: &[u8], bounds: &Bounds) -> Result<T, JsonError> {
    let prepared = prepare(text, bounds)?;
    if prepared.trim_start().starts_with('{') {
        return from_str(&prepared).map_err(|_| SYNTAX);
    }
    match from_str::<Anything>(&prepared) {
        Ok(_) => Err(JsonError::NotAnObject),
        Err(_) => Err(SYNTAX),
    }
}

/// As [`read_object`], but `null` counts as an object without members, as it does for the
/// reference.
///
/// # Errors
/// Those of [`read_object`].
pub fn read_object_or_null<T: Deserialize>(text: &[u8], bounds: &Bounds) -> Result<T, JsonError> {
    let text = if text.trim_ascii() == b"null" {
        b"{}"
    } else {
        text
    };
    read_object(text, bounds)
}

const SYNTAX: JsonError = JsonError::Syntax(Fault {
    what: "not JSON, or not of the form expected",
    at: 0,
});

/// An object in the making, whose members stand in the order they are added.
///
/// `miniserde` writes whole values only, into a text that it grows from nothing; an answer made so
/// costs ten requests for memory. Here members are written as they are added, into one text with
/// room for all.
#[derive(Debug)]
pub struct Fields {
    out: String,
}

/// Bytes that a member of an answer takes, roughly, and its head on the wire, which then has room
/// before it.
const MEMBER: usize = 48;
const HEAD: usize = 128;

impl Fields {
    /// An object without members, with room for `count` short ones.
    pub fn with_room(count: usize) -> Self {
        Self {
            out: String::with_capacity(count * MEMBER + HEAD),
        }
    }

    /// Adds an array of strings.
    pub fn texts(
        &mut self,
        name: &str,
        texts: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> &mut Self {
        put_texts(self.name(name), texts);
        self
    }

    /// Adds a string.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        quote(self.name(name), text);
        self
    }

    /// Adds a string if there is one.
    pub fn text_if(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// Adds an integer.
    pub fn integer(&mut self, name: &str, number: i64) -> &mut Self {
        self.display(name, number)
    }

    /// Adds a count if there is one.
    pub fn count_if(&mut self, name: &str, count: Option<u64>) -> &mut Self {
        match count {
            Some(count) => self.display(name, count),
            None => self,
        }
    }

    /// Adds `true` or `false`.
    pub fn flag(&mut self, name: &str, flag: bool) -> &mut Self {
        self.display(name, flag)
    }

    /// Adds `true`, or nothing.
    pub fn flag_if(&mut self, name: &str, flag: bool) -> &mut Self {
        if flag { self.flag(name, true) } else { self }
    }

    /// Adds a value that is JSON already, as it is.
    pub fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.name(name).push_str(json);
        self
    }

    /// The text, compact; what is added afterwards begins anew.
    pub fn finish(&mut self) -> String {
        self.out
            .push_str(if self.out.is_empty() { "{}" } else { "}" });
        std::mem::take(&mut self.out)
    }

    fn display(&mut self, name: &str, value: impl Display) -> &mut Self {
        // Writing to a string cannot fail.
        let _ = write!(self.name(name), "{value}");
        self
    }

    fn name(&mut self, name: &str) -> &mut String {
        self.out.push(if self.out.is_empty() { '{' } else { ',' });
        quote(&mut self.out, name);
        self.out.push(':');
        &mut self.out
    }
}

/// An array of strings.
pub fn array_of(texts: &[String]) -> String {
    let mut out = String::new();
    put_texts(&mut out, texts);
    out
}

pub(super) fn put_texts(out: &mut String, texts: impl IntoIterator<Item = impl AsRef<str>>) {
    out.push('[');
    for (at, text) in texts.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        quote(out, text.as_ref());
    }
    out.push(']');
}

/// Writes a string as JSON, escaped as `miniserde` escapes it.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c| matches!(c, '"' | '\\' | '\0'..='\u{1f}')) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = special.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some('\u{8}') => out.push_str("\\b"),
            Some('\u{c}') => out.push_str("\\f"),
            Some(control) => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_stand_in_their_order_and_a_finished_object_begins_anew() {
        let mut fields = Fields::with_room(2);
        fields
            .text("a", "x\"y")
            .integer("b", -3)
            .count_if("c", None)
            .flag_if("d", false)
            .flag("e", true)
            .raw("f", "[1]")
            .texts("g", ["1", "\n"])
            .texts("h", Vec::<String>::new());
        let text = fields.finish();
        let expected = r#"{"a":"x\"y","b":-3,"e":true,"f":[1],"g":["1","\n"],"h":[]}"#;
        assert_eq!(text, expected);
        assert_eq!(fields.text("z", "").finish(), r#"{"z":""}"#);
        assert_eq!(Fields::with_room(0).finish(), "{}");
    }

    #[test]
    fn every_character_is_quoted_as_miniserde_quotes_it() {
        for c in '\0'..='\u{3000}' {
            let text = format!("a{c}b");
            let mut out = String::new();
            quote(&mut out, &text);
            assert_eq!(out, miniserde::json::to_string(&text), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_quoted_as_miniserde_quotes_it(text in any::<String>()) {
            let mut out = String::new();
            quote(&mut out, &text);
            prop_assert_eq!(out, miniserde::json::to_string(&text));
        }
    }
}
