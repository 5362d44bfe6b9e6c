//! May this process run a file, and what is wrong with one that it cannot?

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::program::{self, Fault};
use rustix::fs::{Access, access};
use std::io::{self, Read};
use std::path::Path;

/// Whether this process may execute the file.
pub(crate) fn is_executable(path: &str) -> bool {
    Path::new(path).is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// What is wrong with a program, by its first line; `None` when nothing can be seen.
pub(crate) fn fault(path: &Path) -> Option<Fault> {
    // The bound is of no use here: only the beginning is read.
    let file = Bounded::new(0).open(path).ok()?;
    let mut head = Vec::new();
    file.take(program::HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .ok()?;
    program::fault(&head, &|path| path.exists())
}

/// Why a program could not be executed: what is wrong with the file, if that can be seen, else
/// the system's words.
pub(crate) fn explain(path: &str, error: &io::Error) -> String {
    // EACCES and the like are about the file itself, not about what is in it.
    const NOT_FOUND: i32 = 2;
    const NO_EXEC: i32 = 8;
    let about_content = matches!(error.raw_os_error(), Some(NOT_FOUND | NO_EXEC));
    match fault(Path::new(path)).filter(|_| about_content) {
        Some(fault) => format!("{error}: {fault}"),
        None => error.to_string(),
    }
}
