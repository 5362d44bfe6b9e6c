//! What the executor says: records of what it did to the system log (to standard error where there
//! is none), everything else through the `log` facade.

use std::cell::OnceCell;
use std::io;

use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;

/// Its name in both logs.
pub const IDENT: &str = "ctrl-exec-exec";

thread_local! {
    static SYSLOG: OnceCell<Syslog> = const { OnceCell::new() };
}

/// Opens the log of the system below `root`; until then records are lost.
pub fn open(root: &Root) {
    SYSLOG.with(|log| {
        log.get_or_init(|| Syslog::open(IDENT, root));
    });
}

/// The ordinary course.
pub fn info(line: &Line) {
    record(Level::Info, line);
}

/// Something was refused or went wrong.
pub fn warning(line: &Line) {
    record(Level::Warning, line);
}

fn record(level: Level, line: &Line) {
    SYSLOG.with(|log| {
        if let Some(log) = log.get() {
            log.log(level, line);
        }
    });
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
