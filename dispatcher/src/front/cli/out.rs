//! Standard output and standard error. What cannot be written is no reason to stop: the work goes
//! on. A reader that has gone away is nothing to speak of; any other fault is told at the end.

use super::args::Args;
use super::flags::JSON;
use crate::model::{AppError, Holder, Kind, Parts};
use crate::store::files::registry::Damaged;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::text::Untrusted;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A line on standard output.
pub fn line(text: impl fmt::Display) {
    raw(&format!("{text}\n"));
}

/// Text on standard output, as it is.
pub fn raw(text: &str) {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_some() {
        return;
    }
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        *failed = Some(error);
    }
}

/// The first fault of standard output; nothing is written after it.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// The exit status of a command that would end with `exit`: 3, and a message, when something was
/// lost that it wrote on standard output.
pub fn finish(exit: u8) -> u8 {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed {
        Some(fault) if fault.kind() != io::ErrorKind::BrokenPipe => {
            error(format_args!("Error: cannot write standard output: {fault}"));
            super::FATAL
        }
        _ => exit,
    }
}

/// A line on standard error.
pub fn error(text: impl fmt::Display) {
    let _ = io::stderr()
        .lock()
        .write_all(format!("{text}\n").as_bytes());
}

/// Text on standard error, as it is.
pub fn error_raw(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Text of a peer or a file, fit for one line of a terminal or a table.
pub fn clean(text: &str) -> String {
    Untrusted::new(text).to_string()
}

/// How a command ends that was not carried out. With `--json` the refusals of hooks and locks are
/// an object on standard output.
pub fn failure(args: &Args, error: &AppError) {
    let json = args.has(&JSON);
    match error.kind {
        Kind::Denied if json => line(
            Members::of([
                ("ok", Json::integer(0)),
                ("error", Json::text(&*error.message)),
                ("code", Json::integer(i64::from(error.code.unwrap_or(1)))),
            ])
            .render(),
        ),
        Kind::Denied => self::error(format_args!("Denied: {}", error.message)),
        Kind::Locked if json => {
            let mut object = Members::of([
                ("ok", Json::integer(0)),
                ("error", Json::text("locked")),
                ("code", Json::integer(4)),
                ("conflicts", Json::texts(&error.conflicts)),
            ]);
            if error.holders.iter().any(|holder| holder.note.is_some()) {
                let holders = Json::list(error.holders.iter().map(Holder::object));
                object.set("holders", holders);
            }
            line(object.render());
        }
        Kind::Locked => {
            let holders: Vec<String> = error.holders.iter().map(Holder::to_string).collect();
            self::error(format_args!("Locked: {}", clean(&holders.join(", "))));
        }
        _ => self::error(format_args!("Error: {}", error.message)),
    }
}

/// Whether script output is filtered: it goes to a terminal, and `--raw` was not given.
static FILTERED: AtomicBool = AtomicBool::new(false);

/// The same of what goes to standard error.
static ERRORS_FILTERED: AtomicBool = AtomicBool::new(false);

/// Says whether what scripts wrote is to be shown as it is, whatever it is shown on.
pub fn set_raw(raw: bool) {
    FILTERED.store(!raw && io::stdout().is_terminal(), Ordering::Relaxed);
    ERRORS_FILTERED.store(!raw && io::stderr().is_terminal(), Ordering::Relaxed);
}

/// Output of a script with `head` before every line, for standard output or standard error.
pub fn prefixed(head: &str, parts: Parts<'_>, errors: bool) -> String {
    let filter = if errors { &ERRORS_FILTERED } else { &FILTERED };
    let filtered = filter.load(Ordering::Relaxed);
    let shown = parts.map(|text| match filtered {
        true => Cow::Owned(Untrusted::new(text).lines().to_string()),
        false => Cow::Borrowed(text),
    });
    let mut out = String::with_capacity(shown.len());
    for line in shown.split_inclusive('\n') {
        out.push_str(head);
        out.push_str(": ");
        out.push_str(line);
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// The output of a script as it is to be shown.
pub fn script_output(parts: Parts<'_>) -> Cow<'_, str> {
    let filter = FILTERED.load(Ordering::Relaxed);
    parts.map(|text| match filter {
        true => Cow::Owned(filtered(text)),
        false => Cow::Borrowed(text),
    })
}

/// What our own lines begin with, behind which a script's output is not allowed to hide.
const OURS: [&str; 5] = [
    "==>",
    "    ERROR:",
    "    STDERR:",
    "    NOTE:",
    "[ctrl-exec:",
];

/// Output of a script for a terminal: nothing in it is obeyed, and a line that could pass for one
/// of ours is marked.
fn filtered(text: &str) -> String {
    let shown = Untrusted::new(text).lines().to_string();
    let mut out = String::with_capacity(shown.len());
    for line in shown.split_inclusive('\n') {
        if OURS.iter().any(|ours| line.starts_with(ours)) {
            out.push_str("| ");
        }
        out.push_str(line);
    }
    out
}

/// A warning or error about an agent whose record cannot be read; each verb that meets one says so.
pub fn damaged(damaged: &[Damaged]) {
    for damaged in damaged {
        error(format_args!("Error: {damaged}"));
    }
}

#[cfg(test)]
mod tests {
    use super::filtered;

    #[test]
    fn a_script_cannot_write_our_lines_or_move_the_cursor() {
        assert_eq!(
            filtered("a\tb\n\x1b[2J==> r2\n==> r2  [OK  exit:0]\r\n    ERROR: x\nend"),
            "a\tb\n\\u{1b}[2J==> r2\n| ==> r2  [OK  exit:0]\r\n|     ERROR: x\nend"
        );
        // A carriage return would go back to the beginning of the line and write there.
        assert_eq!(filtered("x\r==> r2"), "x\\r==> r2");
        assert_eq!(
            filtered("\u{2028}==> r2\u{202e}"),
            "\\u{2028}==> r2\\u{202e}"
        );
    }
}
