//! The look at a text before anything is made of it: how much it holds, and numbers that a machine
//! number would not hand on as they are.

use super::{Bounds, Fault, JsonError, number};
use std::borrow::Cow;

/// Checks that `text` is UTF-8 and within `bounds`, and prepares it for `miniserde`, which knows
/// machine numbers only: a number with a fraction or an exponent, or of more digits than every
/// machine integer has, becomes its print form (in quotes, unless that is a short integer).
///
/// It does not check the grammar, which `miniserde` does.
pub(super) fn prepare<'t>(text: &'t [u8], bounds: &Bounds) -> Result<Cow<'t, str>, JsonError> {
    let text = std::str::from_utf8(text).map_err(|error| {
        JsonError::Syntax(Fault {
            what: "not UTF-8",
            at: error.valid_up_to(),
        })
    })?;
    let mut tokens = Tokens::of(text);
    let mut out = String::new();
    let mut copied = 0;
    let (mut nodes, mut depth) = (0_usize, 0_usize);
    while let Some((start, token)) = tokens.next() {
        let too = |what| Err(JsonError::TooComplex(Fault { what, at: start }));
        match token {
            Token::Close => {
                depth = depth.saturating_sub(1);
                continue;
            }
            Token::Open => depth += 1,
            Token::Number(spelled) => {
                if let Some(form) = odd(spelled).filter(|_| !tokens.is_before_colon()) {
                    out.push_str(text.get(copied..start).unwrap_or_default());
                    out.push_str(&form);
                    copied = start + spelled.len();
                }
            }
            Token::Other => {}
        }
        nodes += 1;
        if nodes > bounds.max_nodes {
            return too("too many values");
        }
        if depth > bounds.max_depth {
            return too("nested too deeply");
        }
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(text));
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

/// What has to stand in the place of a number that is no short integer. `None` for one that may
/// stay, and for what is no number of JSON.
fn odd(spelled: &str) -> Option<String> {
    let short = spelled.len() <= MOST_DIGITS && spelled != "-0";
    if short
        && spelled
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit())
    {
        return None;
    }
    if !is_number(spelled) {
        return None;
    }
    let form = number::print_form(spelled);
    let plain = form.len() <= MOST_DIGITS
        && form
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit());
    Some(if plain { form } else { format!("\"{form}\"") })
}

/// Digits (and a sign) that every 64-bit integer has room for.
const MOST_DIGITS: usize = 18;

/// Whether this is a number by the grammar of JSON (RFC 8259 §6).
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => {
            let (mantissa, rest) = unsigned.split_at(at);
            let rest = rest.get(1..).unwrap_or_default();
            (
                mantissa,
                Some(rest.strip_prefix(['+', '-']).unwrap_or(rest)),
            )
        }
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

/// A piece of a text that is, or should be, JSON.
pub(super) enum Token<'t> {
    /// `[` or `{`.
    Open,
    /// `]` or `}`.
    Close,
    /// Something of the characters that numbers consist of.
    Number(&'t str),
    /// A string, a literal or something that does not belong there.
    Other,
}

/// The tokens of a text and where they begin; blanks, commas and colons are left out.
pub(super) struct Tokens<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Tokens<'t> {
    pub fn of(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the last token ended.
    pub fn end(&self) -> usize {
        self.at
    }

    fn rest(&self) -> &'t [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Steps over blanks and `also`.
    fn skip(&mut self, also: &[u8]) {
        let gap = |byte: &&u8| b" \t\r\n".contains(*byte) || also.contains(*byte);
        self.at += self.rest().iter().take_while(gap).count();
    }

    /// What follows is a colon, so that the last token is the name of a member.
    fn is_before_colon(&self) -> bool {
        let mut ahead = Self { ..*self };
        ahead.skip(b"");
        ahead.rest().first() == Some(&b':')
    }

    pub fn next(&mut self) -> Option<(usize, Token<'t>)> {
        self.skip(b",:");
        let start = self.at;
        let rest = self.rest();
        let first = *rest.first()?;
        let run = |of: fn(&u8) -> bool| rest.iter().take_while(|byte| of(byte)).count();
        let (length, token) = match first {
            b'[' | b'{' => (1, Token::Open),
            b']' | b'}' => (1, Token::Close),
            b'"' => (string_length(rest), Token::Other),
            b'-' | b'0'..=b'9' => {
                let length =
                    run(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                let spelled = self.text.get(start..start + length).unwrap_or_default();
                (length, Token::Number(spelled))
            }
            // A literal, or what the grammar will not let pass; whole characters in any case.
            _ => (
                run(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii()).max(1),
                Token::Other,
            ),
        };
        self.at += length;
        Some((start, token))
    }
}

/// Bytes of the string that begins here, its quotes included; all there are if it does not end.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDE: Bounds = Bounds {
        max_nodes: 1000,
        max_depth: 100,
    };

    fn prepared(text: &str) -> String {
        prepare(text.as_bytes(), &WIDE).unwrap().into_owned()
    }

    #[test]
    fn numbers_that_machines_would_change() {
        for (text, expected) in [
            ("[1,-1,0,123456789012345678]", "[1,-1,0,123456789012345678]"),
            ("[1.0,1.50, -0 ,1e2]", r#"[1,"1.5", 0 ,100]"#),
            ("[1234567890123456789]", r#"["1234567890123456789"]"#),
            ("{\"a\":1e400,\"1.5\":2}", r#"{"a":"1e+400","1.5":2}"#),
            // What is no JSON stays so.
            ("[1.]", "[1.]"),
            ("[01.5]", "[01.5]"),
            ("[1.5.5]", "[1.5.5]"),
            ("{1.5:1}", "{1.5:1}"),
            ("{1.5 :1}", "{1.5 :1}"),
            ("[\"\\\"1.5\"]", "[\"\\\"1.5\"]"),
        ] {
            assert_eq!(prepared(text), expected, "{text}");
        }
    }

    #[test]
    fn the_first_value_beyond_the_bounds_ends_it() {
        let bounds = Bounds {
            max_nodes: 4,
            max_depth: 2,
        };
        let check = |text: &str| prepare(text.as_bytes(), &bounds).map(|_| ());
        assert_eq!(check(r#"{"a":1,"b"}"#), Ok(()));
        let beyond = |what, at| Err(JsonError::TooComplex(Fault { what, at }));
        assert_eq!(check(r#"{"a":1,"b":2}"#), beyond("too many values", 11));
        assert_eq!(check("[[],[]]"), Ok(()));
        assert_eq!(check("[[[]]]"), beyond("nested too deeply", 2));
        assert_eq!(check(&"[".repeat(100_000)), beyond("nested too deeply", 2));
        assert!(matches!(
            prepare(b"\"\xff", &bounds),
            Err(JsonError::Syntax(Fault { at: 1, .. }))
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_prepared_once(text in "[\\[\\]{}\",:\\\\ a0-9.eE+ü-]{0,40}") {
            let once = prepared(&text);
            prop_assert_eq!(prepared(&once), once.clone());
            // Preparing never makes JSON of what is none, nor the reverse.
            let takes = |text: &str| miniserde::json::from_str::<miniserde::json::Value>(text).is_ok();
            if !text.contains(['e', 'E']) {
                prop_assert_eq!(takes(&text), takes(&once), "{} {}", text, once);
            }
        }
    }
}
