//! The one system call.
#![allow(unsafe_code, reason = "no safe wrapper offers seccomp(2)")]

use libc::{c_int, c_long, c_ulong, sock_filter, sock_fprog};
use std::io;

const SET_MODE_FILTER: c_ulong = 1;
/// The kernel logs what the filter refuses (Linux 4.14).
const FLAG_LOG: c_ulong = 2;

/// Sets `no_new_privs` and puts `program` in force for this thread.
pub(crate) fn install(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: this prctl reads its integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let install = |flags: c_ulong| {
        // SAFETY: `program` points to `len` instructions that live until the call returns; the
        // kernel copies them and writes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        check_long(result)
    };
    install(FLAG_LOG).or_else(|_| install(0))
}

fn check(result: c_int) -> io::Result<()> {
    check_long(result.into())
}

fn check_long(result: c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
