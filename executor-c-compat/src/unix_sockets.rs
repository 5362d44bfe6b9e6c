//! `unix_sockets = none`: a system call filter that refuses to make them.
//!
//! A mount can hide sockets that are there, not those that come later, and many daemons trust
//! whoever is uid 0. So the call itself is refused: `socket(AF_UNIX, …)` fails with EACCES, pairs
//! made by `socketpair` stay. What could get round it is refused as well: calls of another
//! architecture, `socketcall`, and rings of requests (io_uring).

use std::io;

use crate::sys;

/// `AUDIT_ARCH_…` of this program (linux/audit.h).
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(if cfg!(target_endian = "big") {
        0x8000_00b7
    } else {
        0xc000_00b7
    })
} else if cfg!(target_arch = "arm") {
    Some(if cfg!(target_endian = "big") {
        0x28
    } else {
        0x4000_0028
    })
} else if cfg!(target_arch = "mips") {
    Some(if cfg!(target_endian = "big") {
        0x8
    } else {
        0x4000_0008
    })
} else {
    None
};

/// `io_uring_setup`; its number counts from the base of the architecture's table.
const IO_URING_SETUP: u32 = if cfg!(target_arch = "mips") {
    4000 + 425
} else {
    425
};
/// `socketcall`, where there is one among the architectures above.
const SOCKETCALL: Option<u32> = if cfg!(target_arch = "mips") {
    Some(4102)
} else if cfg!(target_arch = "arm") {
    Some(102)
} else {
    None
};
/// Calls of x32 have this bit, and x86-64's architecture.
const X32: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0x4000_0000)
} else {
    None
};

/// Where `seccomp_data` has its members.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// Refuses unix sockets to this process and what it becomes. Needs CAP_SYS_ADMIN or
/// no_new_privileges.
///
/// # Errors
/// The kernel has no filters (CONFIG_SECCOMP_FILTER), or the architecture is not known here.
pub fn refuse() -> io::Result<()> {
    let architecture = ARCHITECTURE.ok_or(io::ErrorKind::Unsupported)?;
    let socket = u32::try_from(libc::SYS_socket).map_err(io::Error::other)?;
    let af_unix = u32::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    let mut program = vec![
        load(ARCH),
        equal(architecture, 1, 0),
        answer(libc::EPERM),
        load(NUMBER),
    ];
    if let Some(bit) = X32 {
        program.extend([at_least(bit, 0, 1), answer(libc::EPERM)]);
    }
    for call in [Some(IO_URING_SETUP), SOCKETCALL].into_iter().flatten() {
        program.extend([equal(call, 0, 1), answer(libc::ENOSYS)]);
    }
    program.extend([
        equal(socket, 0, 3),
        load(FIRST_ARGUMENT),
        equal(af_unix, 0, 1),
        answer(libc::EACCES),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ]);
    sys::filter_system_calls(&mut program)
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn answer(errno: i32) -> libc::sock_filter {
    let errno = u32::try_from(errno).unwrap_or(1) & libc::SECCOMP_RET_DATA;
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno)
}

fn statement(code: u32, value: u32) -> libc::sock_filter {
    jump(code, value, 0, 0)
}

fn equal(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    jump(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        value,
        then,
        otherwise,
    )
}

fn at_least(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    jump(
        libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K,
        value,
        then,
        otherwise,
    )
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        // Codes are small numbers.
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    }
}
