//! Locks on (host, script) pairs: `flock` on files any other program may hold too
//! (dispatcher.md §11). The reference only looks at them; we hold them while a run lasts.

use crate::model::{Holder, LockNote, host_word};
use crate::store::locks::{Guard, Held, LockError, Locks};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where lock files live, below the root.
pub const DIR: &str = "/var/lib/ctrl-exec/locks";

/// Longest note that is read.
const MAX_NOTE: u64 = 4096;

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
    fn acquire(
        &self,
        hosts: &[String],
        script: &str,
        now: i64,
        passed_over: &[String],
    ) -> Result<Held, LockError> {
        acquire(&self.dir, hosts, script, now, passed_over)
    }

    fn list(&self) -> Result<Vec<Holder>, LockError> {
        list(&self.dir).map_err(|error| LockError::Io(self.dir.clone(), error))
    }

    fn settle(&self, is_over: &dyn Fn(&LockNote) -> bool) -> Result<usize, LockError> {
        settle(&self.dir, is_over).map_err(|error| LockError::Io(self.dir.clone(), error))
    }
}

/// Lock files that are held, each with its host word.
struct Files(Vec<(String, File)>);

impl Files {
    /// The files of a word: its own, and that of the bare name.
    fn of<'a>(&'a mut self, word: &'a str) -> impl Iterator<Item = &'a mut File> {
        let bare = host_word::split(word).0;
        self.0
            .iter_mut()
            .filter(move |(of, _)| of == word || of == bare)
            .map(|(_, file)| file)
    }
}

impl Guard for Files {
    fn note(&mut self, word: &str, note: &LockNote) {
        for file in self.of(word) {
            // A note that cannot be written does not hold a run up that was recorded.
            let _ = write_note(file, &note.render());
        }
    }

    fn over(&mut self, word: &str) {
        for file in self.of(word) {
            let _ = file.set_len(0);
        }
    }
}

fn write_note(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// Takes the lock of every (host word, script) pair, or none of them.
///
/// Words are used as typed; a word with a port also takes the lock of the bare name, so that
/// `web01` and `web01:7443` exclude each other (the reference takes them for two things, DEVIATE).
fn acquire<S: AsRef<str>>(
    dir: &Path,
    hosts: &[S],
    script: &str,
    now: i64,
    passed_over: &[String],
) -> Result<Held, LockError> {
    crate::store::files::dirs::ensure(dir).map_err(|error| LockError::Io(dir.to_owned(), error))?;
    let mut words: BTreeSet<&str> = BTreeSet::new();
    for host in hosts {
        words.insert(host.as_ref());
        words.insert(host_word::split(host.as_ref()).0);
    }
    let mut files = Vec::with_capacity(words.len());
    let mut held = Vec::new();
    for host in words {
        let path = dir.join(format!("{}--{}.lock", sanitise(host), sanitise(script)));
        let holder = |live, note| Holder {
            host: host.to_owned(),
            script: script.to_owned(),
            live,
            note,
        };
        match take_patiently(&path) {
            Ok(Some(file)) => {
                let mut file = File::from(file);
                let note = note_in(&mut file)
                    .filter(|note| !passed_over.contains(&note.reqid))
                    .filter(|note| note.until.is_none_or(|until| until >= now));
                match note {
                    Some(note) => held.push(holder(false, Some(note))),
                    None => files.push((host.to_owned(), file)),
                }
            }
            Ok(None) => held.push(holder(true, note_at(&path))),
            Err(error) => return Err(LockError::Io(path, error.into())),
        }
    }
    if held.is_empty() {
        Ok(Held::new(Files(files)))
    } else {
        Err(LockError::Held(held))
    }
}

/// All lock files of a directory: paths, and hosts and scripts in their sanitised forms.
fn files(dir: &Path) -> io::Result<Vec<(PathBuf, String, String)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".lock"));
        if let Some((host, script)) = stem.and_then(|stem| stem.rsplit_once("--")) {
            found.push((entry.path(), host.to_owned(), script.to_owned()));
        }
    }
    Ok(found)
}

/// Who holds locks now. Files that may not be opened are left out.
fn list(dir: &Path) -> io::Result<Vec<Holder>> {
    let mut held = Vec::new();
    for (path, host, script) in files(dir)? {
        let live = matches!(take(&path, OFlags::RDONLY), Ok(None));
        let note = note_at(&path);
        if live || note.is_some() {
            held.push(Holder {
                host,
                script,
                live,
                note,
            });
        }
    }
    held.sort_by_key(Holder::pair);
    Ok(held)
}

fn settle(dir: &Path, is_over: &dyn Fn(&LockNote) -> bool) -> io::Result<usize> {
    let mut settled = 0;
    for (path, ..) in files(dir)? {
        // Looked at without the lock first: taking it would keep a run away for a moment.
        if !note_at(&path).is_some_and(|note| is_over(&note)) {
            continue;
        }
        let Ok(Some(file)) = take(&path, OFlags::APPEND | OFlags::RDWR) else {
            continue;
        };
        let mut file = File::from(file);
        if note_in(&mut file).is_some_and(|note| is_over(&note)) {
            file.set_len(0)?;
            settled += 1;
        }
    }
    Ok(settled)
}

/// The note in a lock file that is not held by us.
fn note_at(path: &Path) -> Option<LockNote> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    note_in(&mut File::from(file))
}

fn note_in(file: &mut File) -> Option<LockNote> {
    let mut text = String::new();
    file.take(MAX_NOTE).read_to_string(&mut text).ok()?;
    LockNote::parse(&text)
}

/// The same for a run, without waiting beyond a moment: somebody may be just looking.
fn take_patiently(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    for _ in 0..3 {
        let taken = take(path, OFlags::CREATE | OFlags::APPEND | OFlags::RDWR);
        if !matches!(taken, Ok(None)) {
            return taken;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    take(path, OFlags::CREATE | OFlags::APPEND | OFlags::RDWR)
}

/// `None` when somebody else holds it.
fn take(path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o660))?;
    let mode = rustix::fs::fstat(&file)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) != rustix::fs::FileType::RegularFile {
        return Err(Errno::INVAL);
    }
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

    fn pairs(dir: &Path) -> Vec<String> {
        list(dir).unwrap().iter().map(Holder::pair).collect()
    }

    #[test]
    fn files_are_locks() {
        let dir = TempDir::new();
        conformance::locks(&LockDir::new(dir.path().join("locks")));
    }

    #[test]
    fn all_or_nothing_and_released_on_drop() {
        let dir = TempDir::new();
        let locks = dir.path().join("locks");
        let first = acquire(&locks, &["a:7443"], "job", 0, &[]).unwrap();
        match acquire(&locks, &["b", "a", "b"], "job", 0, &[]) {
            Err(LockError::Held(held)) => assert_eq!(held[0].pair(), "a:job"),
            other => panic!("{other:?}"),
        }
        assert!(
            acquire(&locks, &["b"], "job", 0, &[]).is_ok(),
            "b was let go"
        );
        assert!(acquire(&locks, &["a"], "other", 0, &[]).is_ok());
        assert_eq!(pairs(&locks), ["a:job", "a_7443:job"]);
        drop(first);
        assert!(list(&locks).unwrap().is_empty());
        assert!(acquire(&locks, &["a", "b"], "job", 0, &[]).is_ok());
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
            acquire(&locks, &["a"], "job", 0, &[]),
            Err(LockError::Io(..))
        ));
        assert!(!target.exists());
        let fifo = locks.join("b--job.lock");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        // With nobody at its other end this would wait for ever.
        assert!(acquire(&locks, &["b"], "job", 0, &[]).is_err());
        assert!(list(&locks).is_ok());
        let _held = acquire(&locks, &["c"], "job", 0, &[]).unwrap();
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
        let _held = acquire(dir.path(), &["../x"], "a/b é--c", 0, &[]).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, [".._x--a_b___--c.lock"]);
        assert_eq!(pairs(dir.path()), [".._x--a_b___:c"]);
    }
}
