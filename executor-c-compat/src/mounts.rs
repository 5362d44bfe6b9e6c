//! The script's view of the file system: steps 3 to 6 of executor.md §5.1.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};

use crate::sys::{self, MOUNT_NOSUID, MOUNT_RDONLY};

/// What every script's namespace looks like, whatever its profile.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// Directories that are read-only for scripts; those that do not exist are skipped.
    pub control_dirs: Vec<PathBuf>,
    /// The executor's own socket, hidden from scripts: one that runs as uid 0 would be let in.
    pub socket: Option<PathBuf>,
}

impl Guarded {
    /// The control directories below `root`. On OpenWrt `/etc` is an overlay whose upper layer can
    /// be reached by another path, so that path is closed too.
    pub fn new(root: &Path, socket: Option<PathBuf>) -> Self {
        let below = |path: &str| root.join(path);
        let control_dirs = vec![
            below("etc/ctrl-exec-agent"),
            below("var/lib/ctrl-exec-agent"),
            below("overlay/upper/etc/ctrl-exec-agent"),
            below("overlay/upper/var/lib/ctrl-exec-agent"),
        ];
        Self {
            control_dirs,
            socket,
        }
    }
}

/// A step that failed, in words, and why.
pub struct Failed {
    /// What was being done.
    pub step: String,
    /// The system's answer.
    pub error: io::Error,
}

/// Makes every mount private to this process; it must already be in its own namespace.
pub fn isolate() -> Result<(), Failed> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("make mounts private", mount_change("/", flags))
}

/// Makes the control directories read-only and hides the socket.
pub fn guard(guarded: &Guarded) -> Result<(), Failed> {
    guard_dirs(guarded)?;
    if let Some(socket) = guarded.socket.as_ref().filter(|socket| socket.exists()) {
        step(
            "hide the executor's socket",
            mount_bind("/dev/null", socket),
        )?;
    }
    Ok(())
}

/// Leaves only `writable` and a private `/tmp` writable (executor.md §5.3).
pub fn restrict(writable: &[String], guarded: &Guarded) -> Result<(), Failed> {
    let root = c_path(Path::new("/"))?;
    step(
        "make the file system read-only (needs Linux 5.12)",
        sys::mount_setattr(&root, true, MOUNT_RDONLY, 0),
    )?;
    for path in writable {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return failed(format!("look at writable path '{path}'"), error),
            Ok(_) => {}
        }
        let what = || format!("make '{path}' writable");
        step(what(), mount_bind_recursive(path.as_str(), path.as_str()))?;
        step(
            what(),
            sys::mount_setattr(&c_path(Path::new(path))?, false, 0, MOUNT_RDONLY),
        )?;
    }
    if Path::new("/tmp").is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        step(
            "mount a private /tmp",
            mount("tmpfs", "/tmp", "tmpfs", flags, c"mode=1777"),
        )?;
    }
    guard_dirs(guarded)
}

fn guard_dirs(guarded: &Guarded) -> Result<(), Failed> {
    for dir in &guarded.control_dirs {
        let what = || format!("make '{}' read-only", dir.display());
        match std::fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => continue,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => return failed(what(), error),
        }
        step(what(), mount_bind_recursive(dir, dir))?;
        let done = match sys::mount_setattr(&c_path(dir)?, true, MOUNT_RDONLY | MOUNT_NOSUID, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => remount_each(dir),
            done => done,
        };
        step(what(), done)?;
    }
    Ok(())
}

/// The way of kernels before 5.12: remounts the mount at `dir` and every one below it.
fn remount_each(dir: &Path) -> io::Result<()> {
    let dir = std::fs::canonicalize(dir)?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mounts: Vec<_> = table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .filter(|(point, _)| point.starts_with(&dir))
        .collect();
    if mounts.is_empty() {
        return Err(io::Error::other("not listed in /proc/self/mountinfo"));
    }
    for (point, flags) in mounts {
        let flags = flags | MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
        mount_remount(point, flags, c"")?;
    }
    Ok(())
}

/// Mount point and flags of one line of mountinfo (proc(5)): the fifth and sixth word.
fn parse_mount(line: &[u8]) -> Option<(PathBuf, MountFlags)> {
    let mut words = line.split(|byte| *byte == b' ').skip(4);
    let (point, options) = (words.next()?, words.next()?);
    let mut flags = MountFlags::empty();
    for option in options.split(|byte| *byte == b',') {
        // A remount drops what it does not name.
        flags |= match option {
            b"nosuid" => MountFlags::NOSUID,
            b"nodev" => MountFlags::NODEV,
            b"noexec" => MountFlags::NOEXEC,
            b"noatime" => MountFlags::NOATIME,
            b"nodiratime" => MountFlags::NODIRATIME,
            b"relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        };
    }
    Some((
        PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(point))),
        flags,
    ))
}

/// Blanks, tabs, line ends and backslashes are written as `\` and three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => out.push(first),
        }
    }
    out
}

fn step<E: Into<io::Error>>(what: impl Into<String>, result: Result<(), E>) -> Result<(), Failed> {
    result.map_err(|error| Failed {
        step: what.into(),
        error: error.into(),
    })
}

fn failed(step: String, error: io::Error) -> Result<(), Failed> {
    Err(Failed { step, error })
}

fn c_path(path: &Path) -> Result<CString, Failed> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| Failed {
        step: format!("use path '{}'", path.display()),
        error: io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime,nodev master:1 - ext3 /dev/root rw";
        let (point, flags) = parse_mount(line).unwrap();
        assert_eq!(point, Path::new("/mnt 2\\x"));
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NODEV);
        assert!(parse_mount(b"").is_none());
        assert_eq!(unescape(b"a\\04"), b"a\\04");
    }
}
