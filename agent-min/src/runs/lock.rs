//! The lock of a script's detached run.
//!
//! The process that supervises the run holds it with `flock`, so it is free as soon as that
//! process is gone, however it went. The file names the run (`owner/reqid`), and in a second line
//! the supervisor and the second of the clock since boot at which it began.

use super::run::RunId;
use ctrl_exec_protocol::wire::messages::RunningScript;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// More than a lock file holds.
const MAX: u64 = 1024;

/// Who holds a lock.
struct Holder {
    owner: String,
    reqid: String,
    /// None as long as the supervisor has not introduced itself.
    supervisor: Option<(Pid, u64)>,
}

/// The lock file of a script below the directory of locks.
pub(super) fn path(locks: &Path, script: &str) -> PathBuf {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "_.-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = script.chars().map(allowed).collect();
    locks.join(format!("{name}.lock"))
}

/// Takes a lock for a run, without waiting beyond a moment (somebody may be just looking). `None`
/// when it is held.
///
/// # Errors
/// The file cannot be made or written.
pub(super) fn take(path: &Path, id: &RunId) -> io::Result<Option<File>> {
    let mut file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags())
        .open(path)?;
    for attempt in 0.. {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(_) if attempt >= 3 => return Ok(None),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    file.set_len(0)?;
    file.write_all(format!("{}/{}\n", id.owner, id.reqid).as_bytes())?;
    Ok(Some(file))
}

/// The second line: this process supervises the run.
pub(super) fn introduction() -> String {
    format!("{} {}\n", std::process::id(), since_boot())
}

/// Whether the lock is held for this run.
pub(super) fn is_held_for(path: &Path, owner: &str, reqid: &str) -> bool {
    let Some(file) = open_held(path) else {
        return false;
    };
    match read(file) {
        Some(holder) => holder.owner == owner && holder.reqid == reqid,
        // The reference leaves its lock files empty: held, by whomever.
        None => true,
    }
}

/// The runs of one dispatcher whose locks are held.
pub(super) fn held_by(locks: &Path, dispatcher: &str) -> Vec<RunningScript> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(locks).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(script) = name.and_then(|name| name.strip_suffix(".lock")) else {
            continue;
        };
        let Some(holder) = open_held(&path).and_then(read) else {
            continue;
        };
        if holder.owner == dispatcher {
            let since = holder.supervisor.map(|(_, since)| since);
            found.push(RunningScript {
                reqid: holder.reqid,
                script: script.to_owned(),
                seconds: since.map_or(0, |since| since_boot().saturating_sub(since)),
                run_async: true,
            });
        }
    }
    found
}

/// Sends a signal to the supervisor of a run. False when it has none.
pub(super) fn signal(path: &Path, id: &RunId, signal: Signal) -> bool {
    let holder = || open_held(path).and_then(read);
    let of_run = |holder: &Holder| holder.owner == id.owner && holder.reqid == id.reqid;
    let Some((pid, _)) = holder().filter(of_run).and_then(|holder| holder.supervisor) else {
        return false;
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Some(process),
        // An old kernel.
        Err(Errno::NOSYS) => None,
        Err(_) => return false,
    };
    // The lock is still held, so what was opened is its holder and no later process of that number.
    if !holder().as_ref().is_some_and(of_run) {
        return false;
    }
    match process {
        Some(process) => pidfd_send_signal(&process, signal).is_ok(),
        None => kill_process(pid, signal).is_ok(),
    }
}

/// The file of a lock that somebody holds.
fn open_held(path: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags())
        .open(path)
        .ok()?;
    flock(&file, FlockOperation::NonBlockingLockShared)
        .is_err()
        .then_some(file)
}

fn read(file: File) -> Option<Holder> {
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let (owner, reqid) = lines.next()?.split_once('/')?;
    let supervisor = lines.next().and_then(|line| {
        let (pid, since) = line.split_once(' ')?;
        Some((Pid::from_raw(pid.parse().ok()?)?, since.parse().ok()?))
    });
    Some(Holder {
        owner: owner.to_owned(),
        reqid: reqid.to_owned(),
        supervisor,
    })
}

/// Scripts in direct mode have this process's user, and may have put a FIFO or a link there.
#[allow(clippy::cast_possible_wrap, reason = "flags are small")]
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32
}

/// Seconds since boot, time asleep included.
pub fn since_boot() -> u64 {
    // Not `clock_gettime`: through a 32-bit musl, rustix reads a 32-bit time as a 64-bit one.
    u64::try_from(rustix::system::sysinfo().uptime).unwrap_or(0)
}
