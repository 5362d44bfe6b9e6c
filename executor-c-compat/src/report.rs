//! What the executor says on its own stderr, which the service manager passes to the log.

use std::fmt::Display;
use std::io::{self, Write};

/// One line. Never fails: there is nobody to tell.
pub fn line(text: impl Display) {
    let line = format!("ctrl-exec-exec: {text}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The system's text for an error, as C's `strerror` has it, without Rust's error number.
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_texts_are_those_of_c() {
        let text = text(&io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(text, "No such file or directory");
    }
}
