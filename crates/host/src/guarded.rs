//! Files that root names below directories of a lesser user.
//!
//! Whoever owns a directory can replace what is in it by a symbolic link, also between two system
//! calls. So root walks there from `/` itself, follows links only where root alone can have made
//! them, and then names files relative to the directory it holds open. What stands under that name
//! may still be anything: it is to be opened with
//! [`Bounded::no_follow`](crate::bounded::Bounded::no_follow), and created aside and renamed.

use rustix::fs::{Mode, OFlags, fstat, openat};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// A file in a directory that is held open.
#[derive(Debug)]
pub struct Guarded {
    named: PathBuf,
    dir: Option<OwnedFd>,
    path: PathBuf,
}

impl Guarded {
    /// Walks to the directory of `path`. Only root has a reason to: for others the path stays as
    /// it is.
    ///
    /// # Errors
    /// A directory on the way does not exist, or is a link where a lesser user may make some.
    pub fn new(path: &Path) -> io::Result<Guarded> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Guarded {
                named: path.to_owned(),
                dir: None,
                path: path.to_owned(),
            });
        }
        let whole = std::path::absolute(path)?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let dir = walk(parent).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", parent.display()))
        })?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        Ok(Guarded {
            named: whole,
            dir: Some(dir),
            path,
        })
    }

    /// The path by which to open, create, rename or remove it, while this value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that is held open, when one is.
    pub fn dir(&self) -> Option<&OwnedFd> {
        self.dir.as_ref()
    }

    /// The text of an error about [`Guarded::path`], with the name that people know.
    pub fn explain(&self, error: &io::Error) -> String {
        let text = error.to_string();
        match (self.path.parent(), self.named.parent()) {
            (Some(shown), Some(real)) if self.dir.is_some() => {
                text.replace(&*shown.to_string_lossy(), &real.to_string_lossy())
            }
            _ => text,
        }
    }
}

fn walk(dir: &Path) -> io::Result<OwnedFd> {
    let base = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let mut here = rustix::fs::open("/", base, Mode::empty())?;
    for part in dir.components() {
        let name: &OsStr = match part {
            Component::Normal(name) => name,
            Component::ParentDir => OsStr::new(".."),
            _ => continue,
        };
        let meta = fstat(&here)?;
        // Whoever may write a directory may make links in it, the sticky bit or not.
        let roots_alone = meta.st_uid == 0 && meta.st_mode & 0o022 == 0;
        let flags = if roots_alone {
            base
        } else {
            base | OFlags::NOFOLLOW
        };
        here = openat(&here, name, flags, Mode::empty())?;
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn a_link_counts_only_where_root_alone_can_have_made_it() {
        let dir = TempDir::new("guarded");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("real/state")).unwrap();
        fs::write(at("real/state/file"), "text").unwrap();
        symlink("real", at("link")).unwrap();
        let guarded = Guarded::new(&at("real/state/file")).unwrap();
        assert_eq!(fs::read_to_string(guarded.path()).unwrap(), "text");
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("note: not root; only the plain case is tried");
            return;
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Guarded::new(&at("link/state/file")).is_ok());
        // Held open, it stays what it was whatever becomes of the name.
        fs::rename(at("real/state"), at("real/moved")).unwrap();
        symlink("/etc", at("real/state")).unwrap();
        assert_eq!(fs::read_to_string(guarded.path()).unwrap(), "text");
        let text = guarded.explain(&io::Error::other(format!(
            "{}: x",
            guarded.path().display()
        )));
        assert_eq!(text, format!("{}: x", at("real/state/file").display()));
        // The same link, once the directory is somebody else's or writable by others.
        assert!(Guarded::new(&at("real/state/file")).is_ok(), "root's link");
        chown(at("real"), Some(65534), None).unwrap();
        assert!(Guarded::new(&at("real/state/file")).is_err());
        chown(at("real"), Some(0), None).unwrap();
        for mode in [0o775, 0o757, 0o1777] {
            fs::set_permissions(at("real"), fs::Permissions::from_mode(mode)).unwrap();
            assert!(Guarded::new(&at("real/state/file")).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn what_is_missing_is_an_error_for_root() {
        let dir = TempDir::new("guarded-none");
        let missing = Guarded::new(&dir.path().join("none/file"));
        assert_eq!(missing.is_err(), rustix::process::geteuid().is_root());
    }
}
