//! The system calls that have no safe wrapper: everything `unsafe` in this program is here.
//!
//! The process never has a second thread, so a forked child may use the allocator and the C
//! library like any other process.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Which side of [`fork`] this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The old one; the new one's id.
    Parent(Pid),
}

/// Duplicates the process.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the process is single-threaded (module documentation), so no lock can be held by a
    // thread that does not exist in the child.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .map(Forked::Parent)
            .ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Waits until a descriptor is ready, or for at most `limit`; a longer one than `poll` can express
/// only means an early look around.
///
/// Not `rustix::event::poll`: where that goes through a 32-bit musl (big-endian MIPS), it hands a
/// 64-bit time to a library that reads a 32-bit one, and every wait ends at once.
///
/// # Errors
/// The system's, interruptions included.
pub fn poll(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a wait for what is left of a time does not end just before it.
    let limit = limit.map_or(-1, |time| {
        i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    let count = libc::nfds_t::try_from(fds.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `PollFd` is a transparent `pollfd`, as its documentation says; the slice is valid for
    // `count` of them and borrowed for the call.
    match unsafe { libc::poll(fds.as_mut_ptr().cast(), count, limit) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Ends the process at once, without exit handlers of the process it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Replaces the program. Returns only on failure.
///
/// Not `std::process::Command`: that one searches for a shell when the file has no interpreter
/// line, which the executor must not (executor.md §5.4).
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let mut list: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: `path` and every element are NUL-terminated and live until after the call, and both
    // lists end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Sends a signal to every process that this one may signal, but not to itself: everything in its
/// process namespace, of which it must be the first process. Elsewhere nothing is done.
pub fn signal_all_others(signal: i32) {
    if std::process::id() == 1 {
        // SAFETY: a system call without pointers.
        unsafe { libc::kill(-1, signal) };
    }
}

/// Closes a descriptor of a process that will not return to whoever owns it: the copy that a
/// forked process has of a connection which is its parent's to serve.
pub fn close_copy(fd: BorrowedFd<'_>) {
    // SAFETY: only called in a forked process that ends without using or dropping the owner.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Ignores signals; their effect is inherited by children until they reset it.
pub fn ignore(signals: &[i32]) {
    for signal in signals {
        // SAFETY: setting a standard disposition has no preconditions.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Counters, all zero, that this process and those it forks later share.
pub fn shared_counters(count: usize) -> io::Result<&'static [AtomicU32]> {
    let bytes = count
        .checked_mul(size_of::<AtomicU32>())
        .ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new anonymous mapping is asked for, which touches nothing that exists.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, zeroed, `bytes` long, never unmapped, and other
    // processes change it through atomics only.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU32>(), count) })
}

/// Adds a system call filter (seccomp(2)) to this process and what it becomes.
pub fn filter_system_calls(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program lives until the call returns, and its length is the one given.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives this process namespaces of its own.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no caller passes `FILES`, the flag that makes the call unsafe, and there is no
    // other thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Read-only.
pub const MOUNT_RDONLY: u64 = 1;
/// Ignore set-user-id bits.
pub const MOUNT_NOSUID: u64 = 2;

/// Changes the flags of the mount at `path`, and of those below it when `recursive`.
///
/// # Errors
/// `ENOSYS` before Linux 5.12.
pub fn mount_setattr(path: &CStr, recursive: bool, set: u64, clear: u64) -> io::Result<()> {
    let attr = MountAttr {
        set,
        clear,
        ..MountAttr::default()
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is NUL-terminated; `attr` has the kernel's layout and the size that is given,
    // and the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the user database says about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: CString,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// Looks a user up by name, through whatever the C library is set up to ask.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: `passwd` is plain data for which all zeros is a valid value.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut buffer = vec![0; 1024];
    loop {
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call and `buffer`'s length is the one given.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                &raw mut entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match code {
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            // Several codes mean "no such user" (getpwnam(3)).
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            0 => {
                return Ok(Some(User {
                    name,
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                }));
            }
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// Looks a group's id up by name.
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: `group` is plain data for which all zeros is a valid value.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut buffer = vec![0; 4096];
    loop {
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call and `buffer`'s length is the one given.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                &raw mut entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match code {
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            0 => return Ok(Some(entry.gr_gid)),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// All groups of a user, its primary group included.
pub fn groups_of(user: &User) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).map_err(io::Error::other)?;
        // SAFETY: `groups` has room for `count` ids and the name is NUL-terminated.
        let result = unsafe {
            libc::getgrouplist(
                user.name.as_ptr(),
                user.gid,
                groups.as_mut_ptr(),
                &raw mut count,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        if result >= 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        if groups.len() >= 1 << 16 {
            return Err(io::Error::other("user is in too many groups"));
        }
        groups.resize((groups.len() * 2).max(count), 0);
    }
}

/// Real, effective and saved user ids, and the same for groups.
pub fn ids() -> io::Result<([u32; 3], [u32; 3])> {
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    let ([ur, ue, us], [gr, ge, gs]) = (&mut uids, &mut gids);
    // SAFETY: every pointer is to a live id.
    let failed = unsafe { libc::getresuid(ur, ue, us) != 0 || libc::getresgid(gr, ge, gs) != 0 };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok((uids, gids))
    }
}

/// The user id of the process at the other end of a unix socket.
///
/// Not rustix's: its type cannot hold process id 0, which is what a peer in another process
/// namespace has.
pub fn peer_uid(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let size = size_of::<libc::ucred>();
    let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the buffer is a live `ucred` and `length` is its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    match result {
        0 if usize::try_from(length) == Ok(size) => Ok(peer.uid),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor that was inherited, beyond the standard three, when a program is
/// executed. Those opened later have that property from the start.
pub fn close_on_exec_all() {
    let listed = std::fs::read_dir("/proc/self/fd").map(|dir| {
        dir.flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    });
    let fds: Vec<i32> = listed.unwrap_or_else(|_| (3..1024).collect());
    for fd in fds.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: sets a flag of a descriptor; one that is not open is only reported.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Holds `signals` back and makes them readable from a descriptor instead.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; a null pointer means that the old mask is not wanted.
    let fd = unsafe {
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal number waiting at a descriptor of [`signal_fd`].
pub fn next_signal(fd: &OwnedFd) -> Option<u32> {
    next_signal_and_sender(fd).map(|(signal, _)| signal)
}

/// The same, and the process that sent it; 0 when that is outside of this process namespace.
pub fn next_signal_and_sender(fd: &OwnedFd) -> Option<(u32, u32)> {
    // SAFETY: `signalfd_siginfo` is plain data for which all zeros is a valid value.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is `size` bytes of plain data that any byte pattern fits.
    let got = unsafe { libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size) };
    (usize::try_from(got) == Ok(size)).then_some((info.ssi_signo, info.ssi_pid))
}

/// Lets `signals` through again.
pub fn unblock(signals: &[i32]) {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; a null pointer means that the old mask is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Gives a script the signal state of a fresh process: nothing blocked, nothing ignored. The Rust
/// runtime ignores SIGPIPE, which would be inherited otherwise.
pub fn reset_signals() {
    let none = signal_set(&[]);
    // SAFETY: `none` is initialised; setting a default disposition has no preconditions, and
    // failures (SIGKILL, SIGSTOP, numbers the C library keeps) change nothing.
    unsafe {
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain data, initialised by `sigemptyset` before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(groups_of(&root).unwrap().contains(&0));
        assert_eq!(user_by_name("no-such-user-here").unwrap(), None);
    }
}
