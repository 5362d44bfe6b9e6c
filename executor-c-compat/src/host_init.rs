//! `reboot` in a process namespace: process 1 that it signals is the supervisor, not the host's.
//!
//! For a profile with CAP_SYS_BOOT, which says that its scripts may do that, a small process outside
//! of the namespace passes such a signal on to the host's process 1.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal, kill_process};

use crate::sys::{self, Forked};

/// The signals by which init systems are told to reboot, halt or power off: busybox and procd have
/// TERM, USR1 and USR2, systemd INT as well.
pub const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGINT];

/// Starts the process. It ends with the last copy of the returned end, which takes signal numbers.
/// `peer` is a connection that it must not keep open.
///
/// # Errors
/// There is no process or socket to be had.
pub fn messenger(peer: &UnixStream) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    match sys::fork()? {
        Forked::Parent(_) => Ok(ours),
        Forked::Child => {
            sys::close_copy(peer.as_fd());
            drop(ours);
            sys::ignore(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
            pass_on(theirs);
            sys::exit_now(0);
        }
    }
}

/// Tells the messenger.
pub fn tell(messenger: &mut UnixStream, signal: u32) {
    if let Ok(signal) = u8::try_from(signal) {
        // It lives as long as somebody can tell it anything.
        let _ = messenger.write_all(&[signal]);
    }
}

fn pass_on(mut from: UnixStream) {
    let mut byte = [0];
    while let Ok(1) = from.read(&mut byte) {
        let asked = SIGNALS
            .into_iter()
            .find(|signal| *signal == i32::from(byte[0]));
        if let Some(signal) = asked.and_then(Signal::from_named_raw) {
            let _ = kill_process(Pid::INIT, signal);
        }
    }
}
