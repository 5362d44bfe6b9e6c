//! Locks on (host, script) pairs: `flock` on files any other program may hold too
//! (dispatcher.md §11). The reference only looks at them; we hold them while a run lasts.

use crate::store::locks::{Held, LockError, Locks};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where lock files live, below the root.
pub const DIR: &str = "/var/lib/ctrl-exec/locks";

/// Lock files in one directory.
#[derive(Clone, Debug)]
pub struct LockDir {
    dir: PathBuf,
}

impl LockDir {
    /// The locks in `dir`; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

impl Locks for LockDir {
    fn acquire(&self, hosts: &[String], script: &str) -> Result<Held, LockError> {
        acquire(&self.dir, hosts, script)
    }

    fn list(&self) -> Result<Vec<(String, String)>, LockError> {
        list(&self.dir).map_err(|error| LockError::Io(self.dir.clone(), error))
    }
}

/// Takes the lock of every (host word, script) pair, or none of them.
///
/// Words are used as typed; a word with a port also takes the lock of the bare name, so that
/// `web01` and `web01:7443` exclude each other (the reference takes them for two things, DEVIATE).
fn acquire<S: AsRef<str>>(dir: &Path, hosts: &[S], script: &str) -> Result<Held, LockError> {
    crate::store::files::dirs::ensure(dir).map_err(|error| LockError::Io(dir.to_owned(), error))?;
    let mut words: BTreeSet<&str> = BTreeSet::new();
    for host in hosts {
        words.insert(host.as_ref());
        words.insert(crate::model::host_word::split(host.as_ref()).0);
    }
    let mut files = Vec::with_capacity(words.len());
    let mut held = Vec::new();
    for host in words {
        let path = dir.join(format!("{}--{}.lock", sanitise(host), sanitise(script)));
        match take(&path, OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY) {
            Ok(Some(file)) => files.push(file),
            Ok(None) => held.push(format!("{host}:{script}")),
            Err(error) => return Err(LockError::Io(path, error.into())),
        }
    }
    if held.is_empty() {
        Ok(Held::new(files))
    } else {
        Err(LockError::Held(held))
    }
}

/// The locks held now by anybody, as (host, script) in their sanitised forms, sorted. Files that
/// may not be opened are left out.
fn list(dir: &Path) -> io::Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut held = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".lock")) else {
            continue;
        };
        let Some((host, script)) = stem.rsplit_once("--") else {
            continue;
        };
        if matches!(take(&entry.path(), OFlags::RDONLY), Ok(None)) {
            held.push((host.to_owned(), script.to_owned()));
        }
    }
    held.sort_by_key(|(host, script)| format!("{host}:{script}"));
    Ok(held)
}

/// `None` when somebody else holds it.
fn take(path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o660))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error),
    }
}

fn sanitise(text: &str) -> String {
    // Byte by byte, as the reference sees its arguments.
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(b),
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::testing::TempDir;

    #[test]
    fn files_are_locks() {
        let dir = TempDir::new();
        conformance::locks(&LockDir::new(dir.path().join("locks")));
    }

    #[test]
    fn all_or_nothing_and_released_on_drop() {
        let dir = TempDir::new();
        let locks = dir.path().join("locks");
        let first = acquire(&locks, &["a:7443"], "job").unwrap();
        match acquire(&locks, &["b", "a", "b"], "job") {
            Err(LockError::Held(pairs)) => assert_eq!(pairs, ["a:job"]),
            other => panic!("{other:?}"),
        }
        assert!(acquire(&locks, &["b"], "job").is_ok(), "b was let go");
        assert!(acquire(&locks, &["a"], "other").is_ok());
        assert_eq!(
            list(&locks).unwrap(),
            [("a".into(), "job".into()), ("a_7443".into(), "job".into())]
        );
        drop(first);
        assert!(list(&locks).unwrap().is_empty());
        assert!(acquire(&locks, &["a", "b"], "job").is_ok());
    }

    /// A lock file in a group's directory: no link is followed, no FIFO waited for, and no child
    /// inherits a lock.
    #[test]
    fn a_lock_is_a_file_of_its_own() {
        let dir = TempDir::new();
        let target = dir.path().join("target");
        let locks = dir.path().join("locks");
        fs::create_dir(&locks).unwrap();
        std::os::unix::fs::symlink(&target, locks.join("a--job.lock")).unwrap();
        assert!(matches!(
            acquire(&locks, &["a"], "job"),
            Err(LockError::Io(..))
        ));
        assert!(!target.exists());
        let fifo = locks.join("b--job.lock");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        // With nobody at its other end this would wait for ever.
        assert!(acquire(&locks, &["b"], "job").is_err());
        assert!(list(&locks).is_ok());
        let _held = acquire(&locks, &["c"], "job").unwrap();
        for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
            let Ok(path) = fs::read_link(entry.path()) else {
                continue;
            };
            if path.ends_with("locks/c--job.lock") {
                let fd = entry.file_name().into_string().unwrap();
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
                let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                assert_ne!(flags & OFlags::CLOEXEC.bits(), 0);
                return;
            }
        }
        panic!("the lock is not among our descriptors");
    }

    #[test]
    fn names_are_made_safe() {
        let dir = TempDir::new();
        let _held = acquire(dir.path(), &["../x"], "a/b é--c").unwrap();
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, [".._x--a_b___--c.lock"]);
        assert_eq!(
            list(dir.path()).unwrap(),
            [(".._x--a_b___".into(), "c".into())]
        );
    }
}
