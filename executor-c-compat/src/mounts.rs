//! The script's view of the file system: steps 3 to 6 of executor.md §5.1.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::mountinfo::{self, Mount};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};

use crate::sys::{self, MOUNT_NOSUID, MOUNT_RDONLY};

/// Where the kernel is set up, besides what a process namespace hides.
const KERNEL_SETTINGS: [&str; 8] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/fs",
    "/proc/bus",
    "/proc/acpi",
    "/proc/latency_stats",
    "/sys",
];

/// A step that failed, in words, and why.
#[derive(Debug)]
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

/// Shows the processes of this process's own namespace at `/proc`.
pub fn own_proc() -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    step(
        "mount a /proc of the script's own",
        mount("proc", "/proc", "proc", flags, c""),
    )
}

/// Makes read-only what sets the kernel up.
pub fn protect_kernel_settings() -> Result<(), Failed> {
    for path in KERNEL_SETTINGS.map(Path::new) {
        let what = || format!("make '{}' read-only", path.display());
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return failed(what(), error),
        }
        step(what(), mount_bind_recursive(path, path))?;
        read_only(path, true, 0).map_err(|error| Failed {
            step: what(),
            error,
        })?;
    }
    Ok(())
}

/// Leaves only `writable` and a private `/tmp` writable (executor.md §5.3).
pub fn restrict(writable: &[String]) -> Result<(), Failed> {
    step(
        "make the file system read-only (needs Linux 5.12)",
        c_path(Path::new("/")).and_then(|root| sys::mount_setattr(&root, true, MOUNT_RDONLY, 0)),
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
            c_path(Path::new(path)).and_then(|c| sys::mount_setattr(&c, false, 0, MOUNT_RDONLY)),
        )?;
    }
    if Path::new("/tmp").is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        step(
            "mount a private /tmp",
            mount("tmpfs", "/tmp", "tmpfs", flags, c"mode=1777"),
        )?;
    }
    Ok(())
}

/// Puts `/dev/null` in a socket's place.
pub fn hide_socket(socket: &Path) -> Result<(), Failed> {
    step(
        "hide the executor's socket",
        mount_bind("/dev/null", socket),
    )
}

/// Makes a mount point of a directory, which therefore cannot be renamed, removed or replaced in
/// this namespace. Its mounts stay visible.
pub fn pin(dir: &Path) -> Result<(), Failed> {
    step(
        format!("hold '{}' in its place", dir.display()),
        mount_bind_recursive(dir, dir),
    )
}

/// Makes the mount at `point` read-only, with those below it when `recursive`; `also` are more
/// flags of `mount_setattr`.
///
/// # Errors
/// The system's.
pub fn read_only(point: &Path, recursive: bool, also: u64) -> io::Result<()> {
    match sys::mount_setattr(&c_path(point)?, recursive, MOUNT_RDONLY | also, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            remount_each(point, recursive, also)
        }
        done => done,
    }
}

/// The way of kernels before 5.12: remounts the mount at `point`, and every one below it when
/// `recursive`.
fn remount_each(point: &Path, recursive: bool, also: u64) -> io::Result<()> {
    let point = std::fs::canonicalize(point)?;
    let table = mount_table()?;
    let mut mounts = mountinfo::seen_at(&table, &point);
    if !recursive {
        mounts.truncate(1);
    }
    if mounts.is_empty() {
        return Err(io::Error::other("not listed in /proc/self/mountinfo"));
    }
    for mount in mounts {
        let mut flags = flags_of(mount) | MountFlags::BIND | MountFlags::RDONLY;
        if also & MOUNT_NOSUID != 0 {
            flags |= MountFlags::NOSUID;
        }
        mount_remount(&mount.point, flags, c"")?;
    }
    Ok(())
}

/// A remount drops what it does not name.
fn flags_of(mount: &Mount) -> MountFlags {
    let table = [
        ("nosuid", MountFlags::NOSUID),
        ("nodev", MountFlags::NODEV),
        ("noexec", MountFlags::NOEXEC),
        ("noatime", MountFlags::NOATIME),
        ("nodiratime", MountFlags::NODIRATIME),
        ("relatime", MountFlags::RELATIME),
    ];
    table
        .into_iter()
        .filter(|(option, _)| mount.has(option))
        .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}

/// The mounts of this namespace.
///
/// # Errors
/// The system's.
pub fn mount_table() -> io::Result<Vec<Mount>> {
    let table = Bounded::new(mountinfo::MAX_FILE)
        .any_kind()
        .read(mountinfo::FILE.as_ref())?;
    Ok(mountinfo::parse(&table).collect())
}

/// Names the step of a result.
pub fn step<T, E: Into<io::Error>>(
    what: impl Into<String>,
    result: Result<T, E>,
) -> Result<T, Failed> {
    result.map_err(|error| Failed {
        step: what.into(),
        error: error.into(),
    })
}

fn failed(step: String, error: io::Error) -> Result<(), Failed> {
    Err(Failed { step, error })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remount_keeps_what_the_mount_had() {
        let all = b"1 2 3 / /x rw,nosuid,nodev,noexec,noatime,nodiratime,relatime - t s rw";
        let mount = mountinfo::parse(all).next().unwrap();
        let expected = MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC
            | MountFlags::NOATIME
            | MountFlags::NODIRATIME
            | MountFlags::RELATIME;
        assert_eq!(flags_of(&mount), expected);
        let none = mountinfo::parse(b"1 2 3 / /x rw,sync - t s rw,nosuid")
            .next()
            .unwrap();
        assert_eq!(flags_of(&none), MountFlags::empty());
    }
}
