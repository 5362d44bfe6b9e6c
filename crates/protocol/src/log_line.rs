//! Structured log lines: `ACTION=run EXIT=0 PEER=10.0.0.1` (agent.md §14, dispatcher.md §16).

use crate::text::is_harmless;
use heapless::{String, Vec};
use std::fmt::{self, Write};

/// Longest value of one field, in bytes; longer ones are cut, so that a peer cannot flood the log.
pub const MAX_VALUE: usize = 512;

/// Bytes that the values of one line have in all. Lines are made without the heap.
const VALUES: usize = 1344;
/// Fields of a line; the longest line of any program has eight.
const FIELDS: usize = 12;
/// What each value gets at the least, however long those before it were: a caller's long text
/// cannot push another field out of the line.
const SHARE: usize = VALUES / FIELDS - 48;
/// Stands at the end of a value that was cut.
const CUT: char = '…';

/// One log line. `ACTION` comes first, the other keys in ASCII order.
///
/// A value with white space is wrapped in double quotes. Beyond the reference, characters that do
/// not stand for themselves ([`is_harmless`]) become `?` and double quotes `'`, so that what a peer
/// sends cannot forge a field or a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    action: &'static str,
    /// In the order of their keys.
    fields: Vec<Field, FIELDS>,
    values: String<VALUES>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Field {
    key: &'static str,
    /// Where its value is.
    start: u16,
    end: u16,
}

impl Line {
    /// A line for `action`.
    pub fn new(action: &'static str) -> Self {
        Self {
            action,
            fields: Vec::new(),
            values: String::new(),
        }
    }

    /// Adds a field. A key given twice keeps both, in the order given. A thirteenth field is left
    /// out.
    #[must_use]
    pub fn field(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.add(key, &value);
        self
    }

    /// The action this line tells of.
    pub fn action(&self) -> &'static str {
        self.action
    }

    fn add(&mut self, key: &'static str, value: &dyn fmt::Display) {
        if self.fields.is_full() {
            return;
        }
        let after = FIELDS - 1 - self.fields.len();
        let start = self.values.len();
        let free = (VALUES - start).saturating_sub(after * SHARE);
        let mut cleaner = Cleaner {
            most: free.saturating_sub(CUT.len_utf8()).min(MAX_VALUE),
            start,
            values: &mut self.values,
        };
        // An error means that the value was cut.
        let _ = write!(cleaner, "{value}");
        let (Ok(start), Ok(end)) = (u16::try_from(start), u16::try_from(self.values.len())) else {
            return;
        };
        let at = self.fields.iter().take_while(|f| f.key <= key).count();
        let _ = self.fields.insert(at, Field { key, start, end });
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACTION={}", self.action)?;
        for Field { key, start, end } in &self.fields {
            let range = usize::from(*start)..usize::from(*end);
            let value = self.values.get(range).unwrap_or_default();
            if value.contains(char::is_whitespace) {
                write!(f, " {key}=\"{value}\"")?;
            } else {
                write!(f, " {key}={value}")?;
            }
        }
        Ok(())
    }
}

/// Takes a value as it is formatted, and keeps what is harmless and fits.
struct Cleaner<'a> {
    values: &'a mut String<VALUES>,
    start: usize,
    most: usize,
}

impl Write for Cleaner<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.values.len() - self.start + c.len_utf8() > self.most {
                let _ = self.values.push(CUT);
                return Err(fmt::Error);
            }
            let harmless = match c {
                '"' => '\'',
                '\n' | '\r' | '\t' => ' ',
                c if is_harmless(c) => c,
                _ => '?',
            };
            self.values.push(harmless).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
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
        let turned = Line::new("deny").field("REQID", "a\u{202e}b\u{2028}c\u{9b}");
        assert_eq!(turned.to_string(), "ACTION=deny REQID=a?b?c?");
    }

    #[test]
    fn a_long_value_is_cut_and_a_thirteenth_field_left_out() {
        let line = Line::new("x").field("K", "é".repeat(300)).to_string();
        assert_eq!(line, format!("ACTION=x K={}…", "é".repeat(256)));
        let line = (0..13).fold(Line::new("x"), |line, n| line.field("K", n));
        assert!(line.to_string().ends_with(" K=10 K=11"), "{line}");
    }

    proptest! {
        #[test]
        fn one_bounded_line(value in ".{0,2000}") {
            let text = Line::new("x").field("K", &value).to_string();
            prop_assert!(text.len() <= MAX_VALUE + 32);
            prop_assert!(text.chars().all(is_harmless));
        }

        #[test]
        fn every_field_keeps_a_part_of_its_value(values in prop::collection::vec(".{0,700}", 11)) {
            let keys = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K"];
            let mut line = Line::new("x");
            for (key, value) in keys.iter().zip(&values) {
                line = line.field(key, value);
            }
            let text = line.field("Z", "the last one is whole").to_string();
            prop_assert!(text.contains(" Z=\"the last one is whole\""), "{}", text);
            for key in keys {
                let named = format!(" {key}=");
                prop_assert!(text.contains(&named), "{}", text);
            }
        }
    }
}
