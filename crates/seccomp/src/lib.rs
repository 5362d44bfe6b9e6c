//! A filter that takes from a network service the system calls it never makes: those that trace or
//! inspect other processes, mount, load code into the kernel, change the clock or the host's name,
//! make namespaces, and sockets of other families than a service speaks.
//!
//! A refused call returns `EPERM`; the kernel also logs it where it has an audit log, so that
//! nothing dies silently. The filter is a list of what is refused, not of what is allowed: programs
//! that the service starts inherit it, and libraries differ in the calls they make from one
//! architecture to the next. `seccompiler` knows three architectures; routers have more, so the
//! table is here, with the numbers of `linux-raw-sys`.

mod program;
mod sys;

pub use program::{ARCHITECTURE, REFUSED};

use std::io;

/// Puts the filter in force for this thread and for all that it starts from now on. It cannot be
/// taken back. Sets `no_new_privs`, which the kernel asks for.
///
/// # Errors
/// The kernel has no filters, or the architecture is not in the table ([`ARCHITECTURE`]).
pub fn install() -> io::Result<()> {
    let Some(architecture) = ARCHITECTURE else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    sys::install(&program::build(architecture))
}
