//! Standard output and standard error. A reader that has gone away is no reason to stop: the work
//! goes on and the exit status tells.

use std::fmt;
use std::io::{self, Write};

/// A line on standard output.
pub fn line(text: impl fmt::Display) {
    raw(&format!("{text}\n"));
}

/// Text on standard output, as it is.
pub fn raw(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
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

/// Text of a peer, fit for a terminal line: control characters are replaced.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
