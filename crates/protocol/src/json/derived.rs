//! Derived types, read within bounds and written with members that may be left out.

use super::bounds::prepare;
use super::scalar::Anything;
use super::{Bounds, Fault, JsonError};
use miniserde::de::Deserialize;
use miniserde::json::from_str;
use miniserde::ser::{Fragment, Map, Serialize};
use std::borrow::Cow;

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
#[derive(Default)]
pub struct Fields<'a>(Vec<(&'a str, Field<'a>)>);

enum Field<'a> {
    Borrowed(&'a dyn Serialize),
    Flag(bool),
    Signed(i64),
    Unsigned(u64),
    Text(&'a str),
    /// A value that is JSON already.
    Raw(&'a str),
}

impl<'a> Fields<'a> {
    /// An object without members, with room for `count`.
    pub fn with_room(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Adds a member.
    pub fn value(&mut self, name: &'a str, value: &'a dyn Serialize) -> &mut Self {
        self.add(name, Field::Borrowed(value))
    }

    /// Adds a string.
    pub fn text(&mut self, name: &'a str, text: &'a str) -> &mut Self {
        self.add(name, Field::Text(text))
    }

    /// Adds a string if there is one.
    pub fn text_if(&mut self, name: &'a str, text: Option<&'a str>) -> &mut Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// Adds an integer.
    pub fn integer(&mut self, name: &'a str, number: i64) -> &mut Self {
        self.add(name, Field::Signed(number))
    }

    /// Adds a count if there is one.
    pub fn count_if(&mut self, name: &'a str, count: Option<u64>) -> &mut Self {
        match count {
            Some(count) => self.add(name, Field::Unsigned(count)),
            None => self,
        }
    }

    /// Adds `true` or `false`.
    pub fn flag(&mut self, name: &'a str, flag: bool) -> &mut Self {
        self.add(name, Field::Flag(flag))
    }

    /// Adds `true`, or nothing.
    pub fn flag_if(&mut self, name: &'a str, flag: bool) -> &mut Self {
        if flag { self.flag(name, true) } else { self }
    }

    /// Adds a value that is JSON already, as it is.
    pub fn raw(&mut self, name: &'a str, json: &'a str) -> &mut Self {
        self.add(name, Field::Raw(json))
    }

    /// The text, compact.
    pub fn finish(&self) -> String {
        if !self
            .0
            .iter()
            .any(|(_, field)| matches!(field, Field::Raw(_)))
        {
            return miniserde::json::to_string(self);
        }
        // `miniserde` writes no text as it is, so the members are put together here.
        let mut out = String::from("{");
        for (name, field) in &self.0 {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&miniserde::json::to_string(*name));
            out.push(':');
            match field {
                Field::Raw(json) => out.push_str(json),
                field => out.push_str(&miniserde::json::to_string(field)),
            }
        }
        out.push('}');
        out
    }

    fn add(&mut self, name: &'a str, field: Field<'a>) -> &mut Self {
        self.0.push((name, field));
        self
    }
}

impl Serialize for Fields<'_> {
    fn begin(&self) -> Fragment<'_> {
        Fragment::Map(Box::new(Members(self.0.iter())))
    }
}

struct Members<'a>(std::slice::Iter<'a, (&'a str, Field<'a>)>);

impl Map for Members<'_> {
    fn next(&mut self) -> Option<(Cow<'_, str>, &dyn Serialize)> {
        let (name, field) = self.0.next()?;
        Some((Cow::Borrowed(name), field))
    }
}

impl Serialize for Field<'_> {
    fn begin(&self) -> Fragment<'_> {
        match self {
            Self::Borrowed(value) => value.begin(),
            Self::Flag(flag) => Fragment::Bool(*flag),
            Self::Signed(number) => Fragment::I64(*number),
            Self::Unsigned(number) => Fragment::U64(*number),
            // Only objects with none of the latter are written by `miniserde`.
            Self::Text(text) | Self::Raw(text) => Fragment::Str(Cow::Borrowed(text)),
        }
    }
}
