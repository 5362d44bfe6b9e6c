//! JSON that is kept: a value as its text, an object as its members.
//!
//! What a program knows of a record or an answer it keeps typed; this is for the rest, which is
//! handed back as it came, and for making objects whose members stand in order. A value takes the
//! memory of its text and no more, whatever a peer sends.

use super::derived::{put_texts, quote};
use super::{Bounds, JsonError, Raw, lossy};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A value as its text: compact, members in order of their names, numbers as they were spelled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Json(String);

impl Json {
    /// `null`.
    pub fn null() -> Self {
        Self("null".to_owned())
    }

    /// A string.
    pub fn text(text: impl AsRef<str>) -> Self {
        let mut out = String::new();
        quote(&mut out, text.as_ref());
        Self(out)
    }

    /// An integer.
    pub fn integer(number: impl Into<i64>) -> Self {
        Self(number.into().to_string())
    }

    /// A count.
    pub fn count(number: usize) -> Self {
        Self(number.to_string())
    }

    /// `true` or `false`.
    pub fn flag(flag: bool) -> Self {
        Self(flag.to_string())
    }

    /// An array of strings.
    pub fn texts(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut out = String::new();
        put_texts(&mut out, texts);
        Self(out)
    }

    /// An array of objects.
    pub fn list(objects: impl IntoIterator<Item = Members>) -> Self {
        let mut out = String::from("[");
        for (at, object) in objects.into_iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            object.put(&mut out);
        }
        out.push(']');
        Self(out)
    }

    /// The value, to be looked into.
    pub fn raw(&self) -> Raw<'_> {
        Raw::of_text(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl From<Raw<'_>> for Json {
    fn from(raw: Raw<'_>) -> Self {
        Self(raw.sorted())
    }
}

impl From<Members> for Json {
    fn from(members: Members) -> Self {
        Self(members.render())
    }
}

/// The members of an object, in code point order of their names, each name once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Members(BTreeMap<String, Json>);

impl Members {
    /// An object without members.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// These members.
    pub fn of<const N: usize>(members: [(&str, Json); N]) -> Self {
        let named = members.map(|(name, value)| (name.to_owned(), value));
        Self(named.into())
    }

    /// Reads an object within `bounds`. Bytes that are not UTF-8 are replaced, as output of a
    /// script may hold any. Of several members with one name the last counts.
    ///
    /// # Errors
    /// It is not JSON, no object, or holds too much.
    pub fn parse(text: &[u8], bounds: &Bounds) -> Result<Self, JsonError> {
        Self::from_raw(Raw::parse(lossy(text).as_bytes(), bounds)?).ok_or(JsonError::NotAnObject)
    }

    /// The members of an object; `None` for anything else.
    pub fn from_raw(value: Raw<'_>) -> Option<Self> {
        let members = value
            .members()
            .map(|(name, value)| (name.into_owned(), value.into()));
        value.is_object().then(|| Self(members.collect()))
    }

    /// The member `name`.
    pub fn get(&self, name: &str) -> Option<Raw<'_>> {
        self.0.get(name).map(Json::raw)
    }

    /// Whether there is a member `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The text of a member: a string, or a number as it was spelled. `None` when it is absent or
    /// otherwise.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).and_then(Raw::text)
    }

    /// A whole number, also when spelled with a fraction of zero; a string of digits counts, as
    /// Perl may have made it one.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.scalar().integer()
    }

    /// Whether the reference's language takes the member for true.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.scalar().is_true())
    }

    /// The member `name`, if it is an object.
    pub fn object(&self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::from_raw)
    }

    /// The strings of an array; none when it is no array.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let value = self.get(name);
        let items = value.into_iter().flat_map(Raw::items);
        items.filter_map(Raw::string).collect()
    }

    /// Members in order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Raw<'_>)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.raw()))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of names and values, roughly those of the text.
    pub fn size(&self) -> usize {
        let members = self.0.iter();
        members
            .map(|(name, value)| name.len() + value.0.len() + 4)
            .sum()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a member.
    pub fn set(&mut self, name: &str, value: impl Into<Json>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Sets a string, if there is one.
    pub fn set_text(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.set(name, Json::text(text)),
            None => self,
        }
    }

    /// Sets a number, if there is one.
    pub fn set_integer(&mut self, name: &str, number: Option<i64>) -> &mut Self {
        match number {
            Some(number) => self.set(name, Json::integer(number)),
            None => self,
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Json> {
        self.0.remove(name)
    }

    /// Takes a member out that is a string; another stays.
    pub fn take_text(&mut self, name: &str) -> Option<String> {
        let text = self.get(name)?.string()?;
        self.0.remove(name);
        Some(text)
    }

    /// Takes a member out that [`integer`](Self::integer) reads; another stays.
    pub fn take_integer(&mut self, name: &str) -> Option<i64> {
        let number = self.integer(name)?;
        self.0.remove(name);
        Some(number)
    }

    /// Takes a member out that is Perl's idea of true; another stays.
    pub fn take_true(&mut self, name: &str) -> bool {
        let is_true = self.is_true(name);
        if is_true {
            self.0.remove(name);
        }
        is_true
    }

    /// The object as one line.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut String) {
        out.push('{');
        for (at, (name, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            quote(out, name);
            out.push(':');
            out.push_str(&value.0);
        }
        out.push('}');
    }
}

impl FromIterator<(String, Json)> for Members {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Members {
        Members::parse(text.as_bytes(), &Bounds::RECORD).unwrap()
    }

    #[test]
    fn an_object_is_handed_back_as_it_came_but_sorted() {
        let text =
            r#"{"c":0.10,"a":1.0,"b":[1e3, -0,12345678901234567890123],"a":{"z":1,"y":"\u00e9"}}"#;
        assert_eq!(
            members(text).render(),
            r#"{"a":{"y":"é","z":1},"b":[1e3,-0,12345678901234567890123],"c":0.10}"#
        );
        assert_eq!(Members::new().render(), "{}");
        let lossy = Members::parse(b"{\"out\":\"\xff\"}", &Bounds::RECORD).unwrap();
        assert_eq!(lossy.text("out").as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn numbers_and_strings_read_alike() {
        let object = members(r#"{"a":"7443","b":7443,"c":-1,"d":7.0,"e":"x","f":7.5}"#);
        for (name, number) in [
            ("a", Some(7443)),
            ("b", Some(7443)),
            ("c", Some(-1)),
            ("d", Some(7)),
            ("e", None),
            ("f", None),
            ("no", None),
        ] {
            assert_eq!(object.integer(name), number, "{name}");
        }
        assert_eq!(object.text("d").as_deref(), Some("7.0"));
        assert_eq!(object.text("e").as_deref(), Some("x"));
        assert_eq!(object.text("no"), None);
    }

    #[test]
    fn perl_truth() {
        let object = members(
            r#"{"a":1,"b":0,"c":"0","d":"","e":"no","f":true,"g":null,"i":false,"j":0.0,"k":[]}"#,
        );
        let is_true: String = ('a'..='k')
            .filter(|name| object.is_true(&name.to_string()))
            .collect();
        assert_eq!(is_true, "aefk");
    }

    #[test]
    fn what_is_taken_is_gone_and_what_is_otherwise_stays() {
        let text = r#"{"flag":1,"n":"5","no":0,"s":"x","t":[1,"a",null,"b"]}"#;
        let mut object = members(text);
        assert_eq!(object.take_text("n").as_deref(), Some("5"));
        assert_eq!(object.take_text("t"), None);
        assert_eq!(object.take_integer("s"), None);
        assert_eq!(object.take_integer("no"), Some(0));
        assert!(object.take_true("flag") && !object.take_true("flag"));
        assert_eq!(object.texts("t"), ["a", "b"]);
        assert!(object.texts("s").is_empty());
        assert_eq!(object.render(), r#"{"s":"x","t":[1,"a",null,"b"]}"#);
    }

    #[test]
    fn objects_are_made_of_their_members() {
        let mut object = Members::of([("z", Json::null()), ("a", Json::integer(-1))]);
        object
            .set("f", Json::flag(true))
            .set_text("s", Some("\"\n"))
            .set_text("none", None)
            .set_integer("i", Some(3))
            .set_integer("none", None)
            .set("l", Json::texts(["x", ""]));
        let text = r#"{"a":-1,"f":true,"i":3,"l":["x",""],"s":"\"\n","z":null}"#;
        assert_eq!(object.render(), text);
        let list = Json::list([object.clone(), Members::new()]);
        assert_eq!(list.as_str(), format!("[{text},{{}}]"));
        let outer = Members::of([("o", object.clone().into()), ("n", Json::count(2))]);
        assert_eq!(outer.object("o"), Some(object));
        assert_eq!(outer.object("n"), None);
        assert_eq!(outer.len(), 2);
    }

    #[test]
    fn only_objects_of_sane_size() {
        let parse = |text: &[u8]| Members::parse(text, &Bounds::RECORD);
        for text in ["[]", "5", "null", "\"x\""] {
            assert_eq!(
                parse(text.as_bytes()),
                Err(JsonError::NotAnObject),
                "{text}"
            );
        }
        assert!(matches!(parse(b""), Err(JsonError::Syntax(_))));
        let within = |value: Vec<u8>| [b"{\"a\":", value.as_slice(), b"}"].concat();
        let nested = |depth: usize| within([vec![b'['; depth], vec![b']'; depth]].concat());
        assert!(parse(&nested(2_000_000)).is_err());
        assert!(parse(&nested(100)).is_ok());
        let many = |count: usize| within(format!("[{}0]", "0,".repeat(count)).into());
        assert!(parse(&many(999_995)).is_ok());
        assert!(parse(&many(1_000_000)).is_err());
    }
}
