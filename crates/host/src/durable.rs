//! Files that survive power loss: written aside, synced, renamed over the old one, directory
//! synced. A reader sees the old content or the new, never half of either.

use crate::random;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Mode and owner of a new file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Perm {
    /// Permission bits, such as `0o640`.
    pub mode: u32,
    /// User and group id; `None` leaves the writer's.
    pub owner: Option<(u32, u32)>,
}

impl Perm {
    /// These permission bits, the writer's ownership.
    pub fn mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// The same, owned by `uid` and `gid`.
    #[must_use]
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self {
            owner: Some((uid, gid)),
            ..self
        }
    }
}

/// Replaces the file at `path` by one that holds `data`.
///
/// The new content is created with mode 0600 under a name in the same directory that ends in
/// `.tmp`, so a secret is never readable by others and readers of `*.json` never see it. On an
/// error the old file is untouched and the temporary one removed.
pub fn write(path: &Path, data: &[u8], perm: &Perm) -> io::Result<()> {
    let staged = stage(path, data, perm)?;
    staged.commit()
}

/// A complete new content that has not taken its place yet; dropping it removes it.
///
/// For sets of files that belong together: stage all, then commit all, so that only renames are
/// left to fail.
#[derive(Debug)]
pub struct Staged {
    temp: PathBuf,
    target: PathBuf,
    committed: bool,
}

/// Writes and syncs the new content of `path` beside it.
pub fn stage(path: &Path, data: &[u8], perm: &Perm) -> io::Result<Staged> {
    let (file, temp) = create_temp(path)?;
    let staged = Staged {
        temp,
        target: path.to_owned(),
        committed: false,
    };
    fill(file, data, perm).map_err(|error| named(&error, &staged.temp))?;
    Ok(staged)
}

impl Staged {
    /// Puts the content in its place and syncs the directory.
    pub fn commit(mut self) -> io::Result<()> {
        std::fs::rename(&self.temp, &self.target).map_err(|error| named(&error, &self.target))?;
        self.committed = true;
        sync_dir(parent(&self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// Many files of one directory, replaced durably at the cost of two syncs for all of them.
///
/// Each file is replaced whole or not at all. A crash in [`commit`](Self::commit) may leave some
/// replaced and others not.
#[derive(Debug)]
pub struct Batch {
    dir: PathBuf,
    staged: Vec<Staged>,
}

impl Batch {
    /// Files of this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            staged: Vec::new(),
        }
    }

    /// Writes the new content of a file beside it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn stage(&mut self, name: &str, data: &[u8], perm: &Perm) -> io::Result<()> {
        let (file, temp) = create_temp(&self.dir.join(name))?;
        let staged = Staged {
            target: self.dir.join(name),
            temp,
            committed: false,
        };
        fill_unsynced(&file, data, perm).map_err(|error| named(&error, &staged.temp))?;
        self.staged.push(staged);
        Ok(())
    }

    /// How many files are staged.
    pub fn len(&self) -> usize {
        self.staged.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// Puts all of them in their places.
    ///
    /// # Errors
    /// The operating system's.
    pub fn commit(self) -> io::Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let dir = File::open(&self.dir)?;
        // One sync for the content of all; then the renames may be seen.
        rustix::fs::syncfs(&dir)?;
        for mut staged in self.staged {
            std::fs::rename(&staged.temp, &staged.target)
                .map_err(|error| named(&error, &staged.target))?;
            staged.committed = true;
        }
        sync_dir(&self.dir)
    }
}

/// Removes a file and syncs its directory. `false` when there was none.
pub fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(named(&error, path)),
    }
}

/// Makes renames and removals in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some file systems (FUSE, 9p) cannot sync a directory; the rename itself stands.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn create_temp(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_string_lossy();
    let mut last = io::ErrorKind::AlreadyExists.into();
    for _ in 0..4 {
        let temp = path.with_file_name(format!(".{name}.{}.tmp", random::hex_id()?));
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)
        {
            Ok(file) => return Ok((file, temp)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(named(&error, path)),
        }
    }
    Err(last)
}

fn fill(file: File, data: &[u8], perm: &Perm) -> io::Result<()> {
    fill_unsynced(&file, data, perm)?;
    file.sync_all()
}

fn fill_unsynced(mut file: &File, data: &[u8], perm: &Perm) -> io::Result<()> {
    file.write_all(data)?;
    if let Some((uid, gid)) = perm.owner {
        fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(fchmod(file, Mode::from_raw_mode(perm.mode))?)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The same error with the path in its text.
fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn replaces_whole_and_leaves_nothing_behind() {
        let dir = TempDir::new("durable-replace");
        let path = dir.file("a.json");
        write(&path, b"old", &Perm::mode(0o644)).unwrap();
        write(&path, b"new", &Perm::mode(0o640)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
    }

    #[test]
    fn the_owner_is_as_asked() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root gives files away");
            return;
        }
        let dir = TempDir::new("durable-owner");
        let path = dir.file("f");
        let owner = |path| {
            let meta = std::fs::metadata(path).unwrap();
            (meta.uid(), meta.gid())
        };
        let perm = Perm::mode(0o640).owned_by(1234, 4321);
        write(&path, b"x", &perm).unwrap();
        assert_eq!(owner(&path), (1234, 4321));
        // Without an owner it is the writer's, whoever had it before.
        write(&path, b"y", &Perm::mode(0o640)).unwrap();
        assert_eq!(owner(&path).0, 0);
        assert_eq!(perm.mode, 0o640);
    }

    #[test]
    fn the_right_directory_is_synced() {
        let dir = TempDir::new("durable-sync");
        let below = dir.file("below");
        std::fs::create_dir(&below).unwrap();
        let trace = dir.file("trace");
        // This test again, watched from outside: what is synced, and in which order.
        if std::env::var_os(CHILD).is_some() {
            write(
                &PathBuf::from(std::env::var_os(CHILD).unwrap()),
                b"x",
                &Perm::mode(0o600),
            )
            .unwrap();
            return;
        }
        let path = below.join("file");
        let traced = std::process::Command::new("strace")
            .args([
                "-f",
                "-y",
                "-e",
                "trace=fsync,rename,renameat,renameat2",
                "-o",
            ])
            .arg(&trace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "durable::tests::the_right_directory_is_synced"])
            .env(CHILD, &path)
            .output();
        let Ok(output) = traced else {
            eprintln!("SKIPPED: no strace");
            return;
        };
        assert!(output.status.success(), "{output:?}");
        let trace = std::fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> = trace
            .lines()
            .filter(|line| line.contains(below.to_str().unwrap()))
            .collect();
        let [content, rename, directory] = calls[..] else {
            panic!("{trace}");
        };
        assert!(
            content.contains("fsync(") && content.contains(".tmp>)"),
            "{trace}"
        );
        assert!(rename.contains("rename"), "{trace}");
        let expected = format!("{}>)", below.display());
        assert!(
            directory.contains("fsync(") && directory.contains(&expected),
            "{trace}"
        );
    }

    /// Names the file that a traced copy of the test has to write.
    const CHILD: &str = "CTRL_EXEC_TEST_WRITE";

    #[test]
    fn a_failed_replacement_keeps_the_old_file() {
        let dir = TempDir::new("durable-fail");
        let path = dir.file("target");
        // A directory cannot be replaced by a file, so the rename fails.
        std::fs::create_dir(&path).unwrap();
        assert!(write(&path, b"new", &Perm::mode(0o644)).is_err());
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.file("absent/x"), b"", &Perm::mode(0o644)).is_err());
    }

    #[test]
    fn a_batch_replaces_each_file_whole() {
        let dir = TempDir::new("durable-batch");
        write(&dir.file("a"), b"old", &Perm::mode(0o644)).unwrap();
        let mut batch = Batch::new(dir.path());
        batch.stage("a", b"new", &Perm::mode(0o640)).unwrap();
        batch.stage("b", b"more", &Perm::mode(0o640)).unwrap();
        assert_eq!(std::fs::read(dir.file("a")).unwrap(), b"old");
        assert_eq!(batch.len(), 2);
        batch.commit().unwrap();
        assert_eq!(std::fs::read(dir.file("a")).unwrap(), b"new");
        assert_eq!(std::fs::read(dir.file("b")).unwrap(), b"more");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let mut dropped = Batch::new(dir.path());
        dropped.stage("c", b"x", &Perm::mode(0o600)).unwrap();
        drop(dropped);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(Batch::new(dir.path()).is_empty());
    }

    #[test]
    fn a_staged_file_is_private_until_committed() {
        let dir = TempDir::new("durable-stage");
        let path = dir.file("key");
        let staged = stage(&path, b"secret", &Perm::mode(0o600)).unwrap();
        assert!(!path.exists());
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().mode() & 0o77, 0);
            assert!(entry.file_name().to_string_lossy().ends_with(".tmp"));
        }
        drop(staged);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
