//! The system calls.
#![allow(unsafe_code, reason = "no safe wrapper offers posix_spawn(3)")]

use crate::strings::Pointers;
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use std::ffi::{c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

unsafe extern "C" {
    /// Our own environment.
    static environ: *const *mut c_char;
}

/// `/dev/null`, for reading and writing.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// A pipe: our end and the child's, which reads from it or writes to it.
pub(crate) fn pipe(child_reads: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(if child_reads {
        (writing, reading)
    } else {
        (reading, writing)
    })
}

pub(crate) fn number(file: BorrowedFd<'_>) -> c_int {
    file.as_raw_fd()
}

/// Starts the program with `files` as standard input, output and error.
pub(crate) fn spawn(
    pointers: &Pointers<'_>,
    files: [c_int; 3],
    own_group: bool,
) -> io::Result<Pid> {
    let mut attributes = Attributes::new()?;
    attributes.set(own_group)?;
    let mut actions = Actions::new()?;
    for (target, file) in (0..).zip(files) {
        // SAFETY: the object is initialised; the call copies its other two arguments.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, file, target) })?;
    }
    let mut pid = 0;
    // SAFETY: both lists of pointers end with a null and point to strings that end with a zero
    // and live as long as `pointers` is borrowed; the objects are initialised; `pid` is written.
    // `environ` is read when nothing changes it: no program here sets variables of its own.
    check(unsafe {
        let environment = pointers.environment().unwrap_or(environ);
        libc::posix_spawn(
            &raw mut pid,
            *pointers.words(),
            &raw const actions.0,
            &raw const attributes.0,
            pointers.words(),
            environment,
        )
    })?;
    Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut made = MaybeUninit::uninit();
        // SAFETY: the call initialises the object it is given.
        check(unsafe { libc::posix_spawnattr_init(made.as_mut_ptr()) })?;
        // SAFETY: it has.
        Ok(Attributes(unsafe { made.assume_init() }))
    }

    /// No signal blocked, `SIGPIPE` not ignored as it is in Rust's programs, and a group if wanted.
    fn set(&mut self, own_group: bool) -> io::Result<()> {
        let group = if own_group {
            libc::POSIX_SPAWN_SETPGROUP
        } else {
            0
        };
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | group;
        let flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut signals = MaybeUninit::uninit();
        // SAFETY: the attributes are initialised; the set is by its first call, before each use,
        // and is copied.
        unsafe {
            check(libc::sigemptyset(signals.as_mut_ptr()))?;
            check(libc::posix_spawnattr_setsigmask(
                &raw mut self.0,
                signals.as_ptr(),
            ))?;
            check(libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE))?;
            check(libc::posix_spawnattr_setsigdefault(
                &raw mut self.0,
                signals.as_ptr(),
            ))?;
            check(libc::posix_spawnattr_setpgroup(&raw mut self.0, 0))?;
            check(libc::posix_spawnattr_setflags(&raw mut self.0, flags))
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: it was initialised and is not used any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut made = MaybeUninit::uninit();
        // SAFETY: the call initialises the object it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(made.as_mut_ptr()) })?;
        // SAFETY: it has.
        Ok(Actions(unsafe { made.assume_init() }))
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: it was initialised and is not used any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

fn check(error: c_int) -> io::Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
