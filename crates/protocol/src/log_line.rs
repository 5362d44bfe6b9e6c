//! Structured log lines: `ACTION=run EXIT=0 PEER=10.0.0.1` (agent.md §14, dispatcher.md §16).

use crate::text::is_harmless;
use std::fmt;

/// Longest value of one field, in bytes; longer ones are cut, so that a peer cannot flood the log.
pub const MAX_VALUE: usize = 512;

/// One log line. `ACTION` comes first, the other keys in ASCII order.
///
/// A value with white space is wrapped in double quotes. Beyond the reference, characters that do
/// not stand for themselves ([`is_harmless`]) become `?` and double quotes `'`, so that what a peer
/// sends cannot forge a field or a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    action: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    /// A line for `action`.
    pub fn new(action: &'static str) -> Self {
        Self {
            action,
            fields: Vec::new(),
        }
    }

    /// Adds a field. A key given twice keeps both, in the order given.
    #[must_use]
    pub fn field(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.fields.push((key, clean(&value.to_string())));
        self
    }

    /// The action this line tells of.
    pub fn action(&self) -> &'static str {
        self.action
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACTION={}", self.action)?;
        let mut fields: Vec<_> = self.fields.iter().collect();
        fields.sort_by_key(|(key, _)| *key);
        for (key, value) in fields {
            if value.contains(char::is_whitespace) {
                write!(f, " {key}=\"{value}\"")?;
            } else {
                write!(f, " {key}={value}")?;
            }
        }
        Ok(())
    }
}

fn clean(value: &str) -> String {
    let mut out = String::with_capacity(value.len().min(MAX_VALUE));
    for c in value.chars() {
        if out.len() + c.len_utf8() > MAX_VALUE {
            out.push('…');
            break;
        }
        out.push(match c {
            '"' => '\'',
            '\n' | '\r' | '\t' => ' ',
            c if is_harmless(c) => c,
            _ => '?',
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn example_of_the_spec() {
        let line = Line::new("run")
            .field("SCRIPT", "backup")
            .field("EXIT", 0)
            .field("PEER", "10.0.0.1")
            .field("DISPATCHER", "primary")
            .field("REQID", "a1b2");
        assert_eq!(
            line.to_string(),
            "ACTION=run DISPATCHER=primary EXIT=0 PEER=10.0.0.1 REQID=a1b2 SCRIPT=backup"
        );
    }

    #[test]
    fn white_space_is_quoted_and_lines_cannot_be_forged() {
        let line = Line::new("deny")
            .field("REASON", "two words\nACTION=run \"x\"\u{1b}[0m")
            .field("USER", "");
        assert_eq!(
            line.to_string(),
            "ACTION=deny REASON=\"two words ACTION=run 'x'?[0m\" USER="
        );
    }

    proptest! {
        #[test]
        fn one_bounded_line(value in ".{0,2000}") {
            let text = Line::new("x").field("K", &value).to_string();
            prop_assert!(text.len() <= MAX_VALUE + 32);
            prop_assert!(text.chars().all(is_harmless));
        }
    }
}
