//! May this process run a file?

use rustix::fs::{Access, access};
use std::path::Path;

/// Whether this process may execute the file.
pub(crate) fn is_executable(path: &str) -> bool {
    Path::new(path).is_file() && access(path, Access::EXEC_OK).is_ok()
}
