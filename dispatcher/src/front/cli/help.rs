//! Help texts, out of the table of verbs and flags.

use super::flags::{self, Flag};
use super::table::{VERBS, Verb};
use std::fmt::Write;

/// The overview.
pub fn overview() -> String {
    let mut text = String::from("Usage: ctrl-exec-dispatcher <verb> [options] [words]\n\nVerbs:\n");
    for verb in VERBS {
        let _ = writeln!(text, "  {:<16}{}", verb.name, verb.summary);
    }
    text.push_str("\nCommon options:\n");
    text.push_str(&flag_lines(flags::COMMON.iter().copied()));
    text.push_str("\n'ctrl-exec-dispatcher help <verb>' tells more.\n");
    text
}

/// The help of one verb.
pub fn of_verb(verb: &Verb) -> String {
    let mut text = format!("Usage: {}\n\n{}\n", verb.synopsis(), verb.summary);
    if !verb.detail.is_empty() {
        let _ = writeln!(text, "\n{}", wrap(verb.detail));
    }
    text.push_str("\nOptions:\n");
    text.push_str(&flag_lines(verb.all_flags()));
    text
}

fn flag_lines<'a>(flags: impl Iterator<Item = &'a Flag>) -> String {
    flags.fold(String::new(), |mut text, flag| {
        let _ = writeln!(text, "  {:<27} {}", flag.shown(), flag.help);
        text
    })
}

/// Lines of at most 78 characters.
fn wrap(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n") {
        if !out.is_empty() {
            out.push_str("\n\n");
        }
        let mut width = 0;
        for word in paragraph.split_whitespace() {
            if width > 0 && width + 1 + word.len() > 78 {
                out.push('\n');
                width = 0;
            } else if width > 0 {
                out.push(' ');
                width += 1;
            }
            out.push_str(word);
            width += word.len();
        }
    }
    out
}
