//! Advisory locks (`flock`), as the reference takes them: bound to an open file, released when the
//! last descriptor of it is closed, also by the death of the process.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How often a lock that is waited for with a limit is tried.
const RETRY: Duration = Duration::from_millis(5);

/// Whom a lock keeps out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Everybody else.
    Exclusive,
    /// Those who want it exclusively.
    Shared,
}

/// A lock that is held while this lives.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// The locked file.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// The locked file, for handing it to a child: the lock lasts until every copy is closed.
    pub fn into_file(self) -> File {
        self.0
    }
}

/// Opens a file made for locking, for reading and writing, and makes it with `mode` (cut by the
/// umask) where it is missing. A symbolic link is refused, and nothing but a regular file opened.
///
/// # Errors
/// The operating system's; [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub fn open(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | FLAGS;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
    regular(file.into())
}

/// Opens a lock file that is there, for reading only: for those who may not write it.
///
/// # Errors
/// As [`open`].
pub fn open_existing(path: &Path) -> io::Result<File> {
    regular(rustix::fs::open(path, OFlags::RDONLY | FLAGS, Mode::empty())?.into())
}

const FLAGS: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// Takes the lock, waiting for it as long as it takes.
///
/// # Errors
/// The operating system's, such as a file system that cannot lock.
pub fn wait(file: File, kind: Kind) -> io::Result<Lock> {
    let operation = match kind {
        Kind::Exclusive => FlockOperation::LockExclusive,
        Kind::Shared => FlockOperation::LockShared,
    };
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the lock if nobody stands in the way; `None` when somebody does.
///
/// # Errors
/// As [`wait`].
pub fn attempt(file: File, kind: Kind) -> io::Result<Option<Lock>> {
    Ok(is_taken(&file, kind)?.then_some(Lock(file)))
}

/// As [`attempt`], again and again for at most `limit`.
///
/// # Errors
/// As [`wait`].
pub fn within(file: File, kind: Kind, limit: Duration) -> io::Result<Option<Lock>> {
    let start = Instant::now();
    loop {
        if is_taken(&file, kind)? {
            return Ok(Some(Lock(file)));
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(RETRY.min(left));
    }
}

fn is_taken(file: &File, kind: Kind) -> io::Result<bool> {
    let operation = match kind {
        Kind::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Kind::Shared => FlockOperation::NonBlockingLockShared,
    };
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn one_holder_at_a_time_and_released_on_drop() {
        let dir = TempDir::new("lock-one");
        let path = dir.file("lock");
        let held = wait(open(&path, 0o600).unwrap(), Kind::Exclusive).unwrap();
        let mode = held.file().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = || open_existing(&path).unwrap();
        assert!(attempt(again(), Kind::Exclusive).unwrap().is_none());
        assert!(attempt(again(), Kind::Shared).unwrap().is_none());
        let start = Instant::now();
        let limit = Duration::from_millis(30);
        assert!(within(again(), Kind::Shared, limit).unwrap().is_none());
        assert!(start.elapsed() >= limit);
        drop(held);
        let one = attempt(again(), Kind::Shared).unwrap().unwrap();
        assert!(attempt(again(), Kind::Shared).unwrap().is_some());
        assert!(attempt(again(), Kind::Exclusive).unwrap().is_none());
        drop(one);
        assert!(attempt(again(), Kind::Exclusive).unwrap().is_some());
    }

    #[test]
    fn who_waits_gets_it_when_it_is_free() {
        let dir = TempDir::new("lock-wait");
        let path = dir.file("lock");
        let held = wait(open(&path, 0o600).unwrap(), Kind::Exclusive).unwrap();
        let (second, third) = (open(&path, 0o600).unwrap(), open(&path, 0o600).unwrap());
        let forever = thread::spawn(move || wait(second, Kind::Exclusive).map(drop));
        let limited = thread::spawn(move || {
            within(third, Kind::Exclusive, Duration::from_secs(60)).map(|lock| lock.is_some())
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!forever.is_finished() && !limited.is_finished());
        drop(held);
        forever.join().unwrap().unwrap();
        assert!(limited.join().unwrap().unwrap());
    }

    #[test]
    fn a_copy_of_the_descriptor_keeps_it() {
        let dir = TempDir::new("lock-copy");
        let path = dir.file("lock");
        let file = wait(open(&path, 0o600).unwrap(), Kind::Exclusive)
            .unwrap()
            .into_file();
        let copy = file.try_clone().unwrap();
        drop(file);
        let again = || open(&path, 0o600).unwrap();
        assert!(attempt(again(), Kind::Exclusive).unwrap().is_none());
        drop(copy);
        assert!(attempt(again(), Kind::Exclusive).unwrap().is_some());
    }

    #[test]
    fn links_and_other_kinds_of_file_are_refused() {
        let dir = TempDir::new("lock-link");
        symlink(dir.file("elsewhere"), dir.file("link")).unwrap();
        assert!(open(&dir.file("link"), 0o600).is_err());
        assert!(open_existing(&dir.file("link")).is_err());
        assert!(!dir.file("elsewhere").exists());
        assert!(open_existing(dir.path()).is_err());
        assert!(open(Path::new("/dev/null"), 0o600).is_err());
        assert!(open_existing(&dir.file("absent")).is_err());
    }
}
