//! Whether a file can be started.

use rustix::fs::{Access, access};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Why a file cannot be started by this process.
#[derive(Debug)]
pub enum NotExecutable {
    /// It is not there, or may not be reached.
    Unreachable(io::Error),
    /// It is a directory or something else that is no regular file.
    NotAFile,
    /// It is there, but this process may not execute it.
    NotAllowed(io::Error),
}

/// Checks that this process may start the file at `path` now, as the kernel judges: mode bits,
/// access lists, a `noexec` mount.
///
/// # Errors
/// Why it may not.
pub fn check(path: &Path) -> Result<(), NotExecutable> {
    let meta = fs::metadata(path).map_err(NotExecutable::Unreachable)?;
    if !meta.is_file() {
        return Err(NotExecutable::NotAFile);
    }
    access(path, Access::EXEC_OK).map_err(|error| NotExecutable::NotAllowed(error.into()))
}

/// Whether somebody may start the file: a regular one with an execute bit. For programs that
/// another user will start.
pub fn is_set(meta: &Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

impl fmt::Display for NotExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "cannot be reached: {error}"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::NotAllowed(error) => write!(f, "not executable: {error}"),
        }
    }
}

impl std::error::Error for NotExecutable {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn only_a_regular_file_with_a_bit_that_serves_us() {
        let dir = TempDir::new("exec-bit");
        let path = dir.file("f");
        let with = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            (check(&path), is_set(&fs::metadata(&path).unwrap()))
        };
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let (allowed, bit) = with(0o644);
        assert!(matches!(allowed, Err(NotExecutable::NotAllowed(_))) && !bit);
        let (allowed, bit) = with(0o755);
        assert!(allowed.is_ok() && bit);
        let (_, bit) = with(0o601);
        assert!(bit);
        if !rustix::process::geteuid().is_root() {
            // The owner is judged by the owner's bits alone.
            let (allowed, bit) = with(0o655);
            assert!(allowed.is_err() && bit);
        }
        assert!(matches!(check(dir.path()), Err(NotExecutable::NotAFile)));
        assert!(!is_set(&fs::metadata(dir.path()).unwrap()));
        let absent = check(&dir.file("absent"));
        assert!(matches!(absent, Err(NotExecutable::Unreachable(_))));
    }
}
