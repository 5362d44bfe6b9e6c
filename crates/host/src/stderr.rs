//! Standard error that never blocks the program.
//!
//! A service's standard error is a pipe or socket to its manager. When the manager does not read,
//! an ordinary write waits for ever, and with it everything else that a program with one loop does.
//! Here a line is one write that the kernel takes at once, or it is dropped and counted; the next
//! line that gets through is preceded by the count.

use heapless::String;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a pipe that is writable at all takes without waiting.
const PIPE_BUF: usize = 4096;

/// Lines that were not taken since the last one that was.
static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Writes `text`, which should be whole lines, to standard error. False when it was dropped.
pub fn write(text: &[u8]) -> bool {
    write_to(rustix::stdio::stderr(), text, &DROPPED)
}

/// Lines dropped since the last one that was taken.
pub fn dropped() -> usize {
    DROPPED.load(Ordering::Relaxed)
}

fn write_to(fd: BorrowedFd<'_>, text: &[u8], dropped: &AtomicUsize) -> bool {
    let lost = dropped.load(Ordering::Relaxed);
    if lost > 0 {
        let mut note: String<64> = String::new();
        // The text is shorter than its buffer.
        let _ = writeln!(note, "({lost} lines were dropped here)");
        if !write_once(fd, note.as_bytes()) {
            dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        dropped.fetch_sub(lost, Ordering::Relaxed);
    }
    // Only an explanation of many lines is longer than one piece.
    let taken = text.chunks(PIPE_BUF).all(|piece| write_once(fd, piece));
    if !taken {
        dropped.fetch_add(1, Ordering::Relaxed);
    }
    taken
}

/// One write of at most [`PIPE_BUF`] bytes, without waiting. The descriptor is shared with other
/// programs, so it is not made non-blocking itself.
fn write_once(fd: impl AsFd, text: &[u8]) -> bool {
    let fd = fd.as_fd();
    let kind = fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let taken = match kind {
        Ok(FileType::Socket) => again(|| send(fd, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)),
        Ok(FileType::RegularFile) => again(|| rustix::io::write(fd, text)),
        _ if writable(fd) => again(|| rustix::io::write(fd, text)),
        _ => Err(Errno::AGAIN),
    };
    taken.is_ok_and(|count| count == text.len())
}

fn writable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    again(|| poll(&mut fds, Some(&now))).is_ok_and(|ready| ready > 0)
        && fds[0].revents().contains(PollFlags::OUT)
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn a_full_pipe_drops_and_counts_and_says_so_later() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let dropped = AtomicUsize::new(0);
        let line = [b"x".repeat(99), vec![b'\n']].concat();
        let taken = (0..2000)
            .filter(|_| write_to(write.as_fd(), &line, &dropped))
            .count();
        assert!((300..2000).contains(&taken), "{taken}");
        assert_eq!(dropped.load(Ordering::Relaxed), 2000 - taken);
        let mut reader = std::fs::File::from(read);
        let mut seen = vec![0; taken * 100];
        reader.read_exact(&mut seen).unwrap();
        assert_eq!(seen, line.repeat(taken));
        assert!(write_to(write.as_fd(), b"end\n", &dropped));
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        drop(write);
        let mut rest = std::string::String::new();
        reader.read_to_string(&mut rest).unwrap();
        let note = format!("({} lines were dropped here)\nend\n", 2000 - taken);
        assert_eq!(rest, note);
    }

    #[test]
    fn full_sockets_and_closed_ones_do_not_hold_the_caller() {
        let dropped = AtomicUsize::new(0);
        let (near, _far) = UnixStream::pair().unwrap();
        let taken = (0..10_000).filter(|_| write_to(near.as_fd(), &[b'y'; 1000], &dropped));
        assert!(taken.count() < 10_000);
        let (near, _far) = UnixDatagram::pair().unwrap();
        let taken = (0..10_000).filter(|_| write_to(near.as_fd(), &[b'y'; 1000], &dropped));
        assert!(taken.count() < 10_000);
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(read);
        assert!(!write_to(write.as_fd(), b"gone\n", &dropped));
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert!(!write_to(near.as_fd(), b"gone\n", &dropped));
    }

    #[test]
    fn long_texts_go_whole_into_a_file() {
        let path = std::env::temp_dir().join(format!("ctrl-exec-stderr-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let text = "line\n".repeat(5000);
        assert!(write_to(
            file.as_fd(),
            text.as_bytes(),
            &AtomicUsize::new(0)
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        std::fs::remove_file(path).unwrap();
    }
}
