//! Ports for programs that cannot be told "any port": claimed, so that nobody else takes them before
//! they are bound.
//!
//! A port that the kernel chose for a probe is free again as soon as the probe is closed, and any
//! connection of the machine may get it as its local port meanwhile: a program that is told to listen
//! there then fails, once in a thousand starts. The ports here lie outside the range that the kernel
//! chooses from, and each is locked by a file until the claiming process ends.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{io, process};

/// What is tried where the kernel's own range does not say otherwise.
const WANTED: Range<u16> = 10_000..32_000;

/// The claims of this process; they end with it.
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Where the next search goes on; processes begin at different places.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on which nothing listens, on no address, and which no other caller of this function gets
/// while this process lives. It may be bound, left and bound again.
///
/// # Errors
/// When the directory for the claims cannot be made, or every port is in use.
pub fn claim() -> io::Result<u16> {
    let directory = directory()?;
    let range =
        range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default());
    let count = range.len();
    let begin = usize::try_from(process::id())
        .unwrap_or_default()
        .wrapping_mul(61);
    for _ in 0..count {
        let step = usize::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from(begin.wrapping_add(step) % count).unwrap_or_default();
        let port = range.start + offset;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(port.to_string()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        {
            CLAIMS
                .lock()
                .map_err(|_| io::Error::other("a claim panicked"))?
                .push(file);
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free"))
}

/// Where the claims of this user lie.
fn directory() -> io::Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let directory = std::env::temp_dir().join(format!("ctrl-exec-test-ports-{user}"));
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The wanted ports without those from which the kernel chooses; `text` is its setting, "low high".
fn range(text: &str) -> Range<u16> {
    let mut words = text.split_whitespace().flat_map(str::parse::<u16>);
    let (Some(low), Some(high)) = (words.next(), words.next()) else {
        return WANTED;
    };
    if low >= WANTED.end || high < WANTED.start {
        return WANTED;
    }
    let below = WANTED.start..low.max(WANTED.start);
    let above = high.saturating_add(1)..u16::MAX;
    if below.len() >= above.len() {
        below
    } else {
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_outside_the_kernels_range() {
        assert_eq!(range(""), WANTED);
        assert_eq!(range("32768 60999"), WANTED);
        assert_eq!(range("15000 60999"), 10_000..15_000);
        assert_eq!(range("1024 30000"), 30_001..u16::MAX);
        assert_eq!(range("20000\t65535\n"), 10_000..20_000);
    }

    #[test]
    fn a_claimed_port_can_be_bound_and_is_nobody_elses() {
        let mut ports: Vec<_> = (0..50).map(|_| claim().unwrap()).collect();
        for port in &ports {
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).unwrap());
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let port = claim().unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        // The claims of one process do not exclude each other by file: the lock is per open file.
        let file = File::open(directory().unwrap().join(port.to_string())).unwrap();
        assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
    }
}
