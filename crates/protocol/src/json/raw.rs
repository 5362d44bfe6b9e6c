//! JSON as it came: slices of a text that was found good, for what is passed on unchanged and for
//! members whose names are not known.

use super::bounds::{Token, Tokens, prepare};
use super::scalar::{Anything, Scalar};
use super::{Bounds, Fault, JsonError, number};
use miniserde::json::from_str;
use std::borrow::Cow;

/// A value as its text. The text is JSON: only [`Raw::parse`] makes one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Raw<'t>(&'t str);

impl<'t> Raw<'t> {
    /// Checks a whole text within `bounds`. Nothing is built.
    ///
    /// # Errors
    /// It is not JSON, or holds too much.
    pub fn parse(text: &'t [u8], bounds: &Bounds) -> Result<Self, JsonError> {
        let prepared = prepare(text, bounds)?;
        let fault = JsonError::Syntax(Fault {
            what: "not JSON",
            at: 0,
        });
        from_str::<Anything>(&prepared).map_err(|_| fault)?;
        let text = std::str::from_utf8(text).map_err(|_| fault)?;
        Ok(Self(text.trim_matches([' ', '\t', '\r', '\n'])))
    }

    /// The text, without blanks around it.
    pub fn as_str(self) -> &'t str {
        self.0
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Names and values of an object's members in the order of the text; none for anything else. A
    /// name may come twice, of which readers take the last.
    pub fn members(self) -> impl Iterator<Item = (Cow<'t, str>, Raw<'t>)> {
        let mut values = Values::within(self.0, self.is_object());
        std::iter::from_fn(move || Some((values.next()?.unquoted(), values.next()?)))
    }

    /// The items of an array; none for anything else.
    pub fn items(self) -> impl Iterator<Item = Raw<'t>> {
        let mut values = Values::within(self.0, self.0.starts_with('['));
        std::iter::from_fn(move || values.next())
    }

    /// The member `name` of an object, the last of several.
    pub fn get(self, name: &str) -> Option<Raw<'t>> {
        self.members()
            .filter(|(found, _)| found == name)
            .last()
            .map(|(_, value)| value)
    }

    /// The value as a scalar.
    pub fn scalar(self) -> Scalar {
        match self.0.as_bytes().first() {
            Some(b'"') => Scalar::Text(self.unquoted().into_owned()),
            Some(b'n') => Scalar::Null,
            Some(b't') => Scalar::Bool(true),
            Some(b'f') => Scalar::Bool(false),
            Some(b'[' | b'{') | None => Scalar::Compound,
            Some(_) => Scalar::Number(number::print_form(self.0)),
        }
    }

    /// The content of a string; the text of anything else.
    fn unquoted(self) -> Cow<'t, str> {
        let inner = self
            .0
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        match inner {
            Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
            Some(_) => from_str(self.0).map_or(Cow::Borrowed(self.0), Cow::Owned),
            None => Cow::Borrowed(self.0),
        }
    }
}

/// The values inside an array or object, names of members among them.
struct Values<'t> {
    text: &'t str,
    tokens: Tokens<'t>,
}

impl<'t> Values<'t> {
    fn within(text: &'t str, applies: bool) -> Self {
        let text = if applies { text } else { "" };
        let mut tokens = Tokens::of(text);
        tokens.next();
        Self { text, tokens }
    }

    fn next(&mut self) -> Option<Raw<'t>> {
        let (start, first) = self.tokens.next()?;
        let mut depth = match first {
            Token::Open => 1_usize,
            Token::Close => return None,
            Token::Number(_) | Token::Other => 0,
        };
        while depth > 0 {
            match self.tokens.next()?.1 {
                Token::Open => depth += 1,
                Token::Close => depth -= 1,
                Token::Number(_) | Token::Other => {}
            }
        }
        self.text.get(start..self.tokens.end()).map(Raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(text: &str) -> Raw<'_> {
        Raw::parse(text.as_bytes(), &Bounds::REQUEST).unwrap()
    }

    #[test]
    fn slices_are_what_came() {
        let value = raw(
            " { \"a\" : 1.50 , \"b\\n\":[1, {\"x\":\"]}\\\"\"}],\"a\":null,\"\":\"\\u0041\"} \n",
        );
        let members: Vec<_> = value
            .members()
            .map(|(name, value)| (name.into_owned(), value.as_str()))
            .collect();
        let expected = [
            ("a", "1.50"),
            ("b\n", "[1, {\"x\":\"]}\\\"\"}]"),
            ("a", "null"),
            ("", "\"\\u0041\""),
        ];
        assert_eq!(
            members,
            expected.map(|(name, text)| (name.to_owned(), text))
        );
        assert_eq!(value.get("a").unwrap().scalar(), Scalar::Null);
        assert_eq!(value.get("").unwrap().scalar(), Scalar::Text("A".into()));
        assert_eq!(value.get("no"), None);
        let items: Vec<_> = value.get("b\n").unwrap().items().map(Raw::as_str).collect();
        assert_eq!(items, ["1", "{\"x\":\"]}\\\"\"}"]);
        assert_eq!(raw("1.50").scalar(), Scalar::Number("1.5".into()));
        for nothing in ["[]", "{}", "1", "\"[1]\"", "null"] {
            assert_eq!(raw(nothing).items().count(), 0);
            assert_eq!(raw(nothing).members().count(), 0);
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "", "{", "[1,]", "{\"a\"}", "[1}", "nul", "1 2", "\"\\x\"", "{1:2}",
        ] {
            assert!(
                Raw::parse(text.as_bytes(), &Bounds::REQUEST).is_err(),
                "{text}"
            );
        }
        let deep = [vec![b'['; 33], vec![b']'; 33]].concat();
        assert!(matches!(
            Raw::parse(&deep, &Bounds::REQUEST),
            Err(JsonError::TooComplex(_))
        ));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_tree(text in "[\\[\\]{}\",:\\\\a0-9.eEü-]{0,30}|\\{(\"[ab]\":[0-9]{1,3},){0,4}\"c\":\\[[0-9,.]{0,9}\\]\\}") {
            let tree = super::super::parse_value(text.as_bytes(), &Bounds::REQUEST);
            let Ok(value) = Raw::parse(text.as_bytes(), &Bounds::REQUEST) else {
                prop_assert!(tree.is_err());
                return Ok(());
            };
            match tree.unwrap() {
                super::super::Value::Object(object) => {
                    for (name, member) in object.iter() {
                        let ours = value.get(name).unwrap();
                        let again = super::super::parse_value(ours.as_str().as_bytes(), &Bounds::REQUEST);
                        prop_assert_eq!(again.as_ref(), Ok(member));
                    }
                }
                super::super::Value::Array(items) => prop_assert_eq!(value.items().count(), items.len()),
                other => prop_assert_eq!(value.scalar().into_text(), super::super::scalar_text(&other)),
            }
        }
    }
}
