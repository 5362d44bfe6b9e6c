//! JSON as it came: slices of a text that was found good, for what is passed on unchanged and for
//! members whose names are not known.

use super::bounds::{Token, Tokens, prepare};
use super::derived::quote;
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
        let is_good = from_str::<Anything>(&prepared).is_ok();
        let text = std::str::from_utf8(text).unwrap_or_default();
        if !is_good {
            return Err(JsonError::Syntax(first_fault(text)));
        }
        Ok(Self(text.trim_matches([' ', '\t', '\r', '\n'])))
    }

    /// A text that is JSON, by whoever made it.
    pub(super) fn of_text(text: &'t str) -> Self {
        Self(text)
    }

    /// The text, without blanks around it.
    pub fn as_str(self) -> &'t str {
        self.0
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether it is an array.
    pub fn is_array(self) -> bool {
        self.0.starts_with('[')
    }

    /// Names and values of an object's members in the order of the text; none for anything else. A
    /// name may come twice, of which readers take the last.
    pub fn members(self) -> impl Iterator<Item = (Cow<'t, str>, Raw<'t>)> {
        let mut values = Values::within(self.0, self.is_object());
        std::iter::from_fn(move || Some((values.next()?.unquoted(), values.next()?)))
    }

    /// The items of an array; none for anything else.
    pub fn items(self) -> impl Iterator<Item = Raw<'t>> {
        let mut values = Values::within(self.0, self.is_array());
        std::iter::from_fn(move || values.next())
    }

    /// The member `name` of an object, the last of several.
    pub fn get(self, name: &str) -> Option<Raw<'t>> {
        self.members()
            .filter(|(found, _)| found == name)
            .last()
            .map(|(_, value)| value)
    }

    /// The members `names` of an object, each the last of several.
    pub fn select<const N: usize>(self, names: [&str; N]) -> [Option<Raw<'t>>; N] {
        let mut found = [None; N];
        self.select_into(&names, &mut found);
        found
    }

    fn select_into(self, names: &[&str], found: &mut [Option<Raw<'t>>]) {
        for (name, value) in self.members() {
            if let Some(at) = names.iter().position(|wanted| *wanted == name) {
                if let Some(place) = found.get_mut(at) {
                    *place = Some(value);
                }
            }
        }
    }

    /// The content of a string; `None` for anything else.
    pub fn string(self) -> Option<String> {
        self.0
            .starts_with('"')
            .then(|| self.unquoted().into_owned())
    }

    /// The content of a string, or a number as it was spelled; `None` for anything else.
    pub fn text(self) -> Option<Cow<'t, str>> {
        (self.0.starts_with('"') || self.is_number()).then(|| self.unquoted())
    }

    /// Whether it is a number.
    pub fn is_number(self) -> bool {
        self.0
            .starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
    }

    /// The text: compact, members in order of their names, the last of several with one name,
    /// numbers as they were spelled.
    pub fn sorted(self) -> String {
        let mut out = String::new();
        self.put(&mut out, false);
        out
    }

    /// The text of which the reference makes hashes: as by [`Raw::sorted`], with numbers in Perl's
    /// print form, and integers that no machine number holds as strings (agent.md §6).
    pub fn canonical(self) -> String {
        let mut out = String::new();
        self.put(&mut out, true);
        out
    }

    /// As deep as [`Raw::parse`] let the text be.
    fn put(self, out: &mut String, canonical: bool) {
        match self.0.as_bytes().first() {
            Some(b'{') => {
                let mut members: Vec<_> = self.members().collect();
                // The last of several comes first, and stays.
                members.reverse();
                members.sort_by(|one, other| one.0.cmp(&other.0));
                members.dedup_by(|later, earlier| later.0 == earlier.0);
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    quote(out, name);
                    out.push(':');
                    value.put(out, canonical);
                }
                out.push('}');
            }
            Some(b'[') => {
                out.push('[');
                for (at, item) in self.items().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.put(out, canonical);
                }
                out.push(']');
            }
            Some(b'"') => quote(out, &self.unquoted()),
            _ if canonical && self.is_number() => {
                let form = number::print_form(self.0);
                let is_integer = self.0.bytes().all(|b| b == b'-' || b.is_ascii_digit());
                let fits = self.0.parse::<i64>().is_ok() || self.0.parse::<u64>().is_ok();
                if is_integer && !fits {
                    quote(out, &form);
                } else {
                    out.push_str(&form);
                }
            }
            _ => out.push_str(self.0),
        }
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

/// Where a text that is not JSON goes wrong, which `miniserde` does not tell.
fn first_fault(text: &str) -> Fault {
    // Open arrays and objects, and how many names and values each has had.
    let mut open: Vec<(bool, usize)> = Vec::new();
    let mut tokens = Tokens::of(text);
    let mut end = 0;
    let mut is_begun = false;
    while let Some((start, token)) = tokens.next() {
        let fault = |what| Fault { what, at: start };
        let gap = text.get(end..start).unwrap_or_default();
        let separator = gap.trim_matches([' ', '\t', '\r', '\n']);
        end = tokens.end();
        let spelled = text.get(start..end).unwrap_or_default();
        let (in_object, had) = open.last().copied().unwrap_or_default();
        let is_name = in_object && had % 2 == 0;
        if matches!(token, Token::Close) {
            let fits = spelled == if in_object { "}" } else { "]" };
            if open.pop().is_none() || !fits || !separator.is_empty() || (in_object && !is_name) {
                return fault("unexpected end of an array or object");
            }
            continue;
        }
        let expected = match had {
            0 => "",
            _ if in_object && !is_name => ":",
            _ => ",",
        };
        if is_name && !spelled.starts_with('"') {
            return fault("expected a member name");
        }
        if separator != expected {
            return fault("expected one comma or colon before this");
        }
        let is_open = matches!(token, Token::Open);
        if !is_open && from_str::<Anything>(spelled).is_err() {
            return fault("malformed value");
        }
        match open.last_mut() {
            Some((_, had)) => *had += 1,
            None if is_begun => return fault("text after the value"),
            None => is_begun = true,
        }
        if is_open {
            open.push((spelled == "{", 0));
        }
    }
    Fault {
        what: "unexpected end of text",
        at: text.len(),
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
    fn sorted_text_is_handed_on_and_canonical_text_is_the_references() {
        let text = " {\"b\" : [1.0, null,true, 1e400,\n18446744073709551615, \
                    18446744073709551616,-9223372036854775808,-9223372036854775809],\
                    \"a\":{\"\\u00e9\":\"/\\u0001\\t\\u007f\",\"x\":1,\"x\":2,\"\":{}}} ";
        assert_eq!(
            raw(text).sorted(),
            "{\"a\":{\"\":{},\"x\":2,\"é\":\"/\\u0001\\t\u{7f}\"},\"b\":[1.0,null,true,1e400,\
             18446744073709551615,18446744073709551616,-9223372036854775808,-9223372036854775809]}"
        );
        assert_eq!(
            raw(text).canonical(),
            "{\"a\":{\"\":{},\"x\":2,\"é\":\"/\\u0001\\t\u{7f}\"},\"b\":[1,null,true,1e+400,\
             18446744073709551615,\"18446744073709551616\",-9223372036854775808,\
             \"-9223372036854775809\"]}"
        );
        let [a, no, b] = raw(text).select(["a", "no", "b"]);
        assert_eq!(a, raw(text).get("a"));
        assert_eq!(b, raw(text).get("b"));
        assert_eq!(no, None);
        assert_eq!(a.unwrap().get("").unwrap().string(), None);
        let name = a.unwrap().get("é").unwrap().string();
        assert_eq!(name.as_deref(), Some("/\u{1}\t\u{7f}"));
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
        for (text, what, at) in [
            ("", "unexpected end of text", 0),
            ("[1,", "unexpected end of text", 3),
            ("{\"a\":1", "unexpected end of text", 6),
            ("{nope", "expected a member name", 1),
            ("{\"a\":{1:2}}", "expected a member name", 6),
            ("{\"a\" 1}", "expected one comma or colon before this", 5),
            ("[1 2]", "expected one comma or colon before this", 3),
            ("[1,,2]", "expected one comma or colon before this", 4),
            ("[1, nul]", "malformed value", 4),
            ("{\"a\":\"\\x\"}", "malformed value", 5),
            ("[1}", "unexpected end of an array or object", 2),
            ("{\"a\"}", "unexpected end of an array or object", 4),
            ("[1,]", "unexpected end of an array or object", 3),
            ("]", "unexpected end of an array or object", 0),
            ("1 2", "text after the value", 2),
            ("{} []", "text after the value", 3),
        ] {
            let fault = JsonError::Syntax(Fault { what, at });
            assert_eq!(
                Raw::parse(text.as_bytes(), &Bounds::REQUEST),
                Err(fault),
                "{text}"
            );
        }
        let deep = [vec![b'['; 33], vec![b']'; 33]].concat();
        assert!(matches!(
            Raw::parse(&deep, &Bounds::REQUEST),
            Err(JsonError::TooComplex(_))
        ));
    }

    #[test]
    fn a_large_object_in_reverse_order_takes_no_quadratic_time() {
        let members: Vec<String> = (0..120_000)
            .rev()
            .map(|n| format!("\"{n:06}\":0"))
            .collect();
        let text = format!("{{{}}}", members.join(","));
        let start = std::time::Instant::now();
        let sorted = Raw::parse(text.as_bytes(), &Bounds::ANSWER)
            .unwrap()
            .sorted();
        assert!(sorted.starts_with("{\"000000\":0,"));
        assert_eq!(sorted.len(), text.len());
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_sorted_once(text in "[\\[\\]{}\",:\\\\a0-9.eEü-]{0,30}|\\{(\"[ab]\":[0-9]{1,3},){0,4}\"c\":\\[[0-9,.]{0,9}\\]\\}") {
            let Ok(value) = Raw::parse(text.as_bytes(), &Bounds::REQUEST) else {
                return Ok(());
            };
            let sorted = value.sorted();
            let again = Raw::parse(sorted.as_bytes(), &Bounds::REQUEST).unwrap();
            prop_assert_eq!(again.sorted(), sorted.clone());
            prop_assert_eq!(again.canonical(), value.canonical());
            for (name, _) in value.members() {
                let (ours, theirs) = (value.get(&name).unwrap(), again.get(&name).unwrap());
                prop_assert_eq!(ours.sorted(), theirs.as_str());
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(JsonError::Syntax(fault) | JsonError::TooComplex(fault)) =
                Raw::parse(&bytes, &Bounds::REQUEST)
            {
                prop_assert!(fault.at <= bytes.len());
            }
        }
    }
}
