//! Starts a process. `std::process::Command` does that too; here it takes two allocations instead
//! of some forty, and 16 KB less of a program for MIPS, most of them a sorted map of the
//! environment.
//!
//! A child always has a process group or a session of its own making, no signal blocked, and
//! `SIGPIPE` as the system has it; every other descriptor of ours is closed on exec.

mod strings;
mod sys;

pub use strings::Strings;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One of the three standard streams of a child.
#[derive(Debug)]
pub enum Stdio<'a> {
    /// `/dev/null`.
    Null,
    /// A pipe; our end is in [`Started`].
    Pipe,
    /// A file of ours.
    File(BorrowedFd<'a>),
}

/// A child that was started. Dropping it neither ends it nor waits for it.
#[derive(Debug)]
pub struct Started {
    /// The process; wait for it, or its number stays taken.
    pub pid: Pid,
    /// Our end of each stream that is a pipe.
    pub pipes: [Option<OwnedFd>; 3],
}

/// What failed.
#[derive(Debug)]
pub enum Fault {
    /// A pipe could not be made, or `/dev/null` not opened.
    Pipe(io::Error),
    /// No process could be made.
    Fork(io::Error),
    /// The program could not be executed.
    Exec(io::Error),
}

impl Fault {
    /// What the system said.
    pub fn into_io(self) -> io::Error {
        match self {
            Fault::Pipe(error) | Fault::Fork(error) | Fault::Exec(error) => error,
        }
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// Starts the program that `strings` names first, with standard input, output and error as
/// `streams` says; `own_group` makes it the leader of a process group.
///
/// # Errors
/// See [`Fault`]; nothing runs then.
pub fn start(
    strings: &Strings,
    streams: [Stdio<'_>; 3],
    own_group: bool,
) -> Result<Started, Fault> {
    let mut ours = [None, None, None];
    let mut theirs = [None, None, None];
    let mut null = None;
    for (at, stream) in streams.iter().enumerate() {
        let made = match stream {
            Stdio::Null if null.is_none() => sys::null().map(|file| null = Some(file)),
            Stdio::Null | Stdio::File(_) => Ok(()),
            Stdio::Pipe => sys::pipe(at == 0).map(|(our, their)| {
                ours[at] = Some(our);
                theirs[at] = Some(their);
            }),
        };
        made.map_err(Fault::Pipe)?;
    }
    let mut files = [-1; 3];
    for (at, stream) in streams.iter().enumerate() {
        let file = match stream {
            Stdio::Null => null.as_ref().map(AsFd::as_fd),
            Stdio::Pipe => theirs[at].as_ref().map(AsFd::as_fd),
            Stdio::File(file) => Some(*file),
        };
        files[at] = file.map_or(-1, sys::number);
    }
    let pid = strings
        .pointers()
        .and_then(|pointers| sys::spawn(&pointers, files, own_group))
        .map_err(classify)?;
    Ok(Started { pid, pipes: ours })
}

/// What posix_spawn(3) failed at, as far as its error tells.
fn classify(error: io::Error) -> Fault {
    match Errno::from_io_error(&error) {
        Some(Errno::AGAIN | Errno::NOMEM) => Fault::Fork(error),
        _ => Fault::Exec(error),
    }
}

/// Whether the child has ended, and how; with `block` it is waited for.
///
/// # Errors
/// Somebody else has waited for it.
pub fn wait(pid: Pid, block: bool) -> io::Result<Option<Exit>> {
    let options = if block {
        WaitOptions::empty()
    } else {
        WaitOptions::NOHANG
    };
    loop {
        match waitpid(Some(pid), options) {
            Ok(found) => return Ok(found.map(|(_, status)| exit_of(status))),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => Exit::Signal(signal),
        (None, code) => Exit::Code(code.unwrap_or(-1)),
    }
}

#[cfg(test)]
mod tests;
