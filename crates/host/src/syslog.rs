//! The system log, over its datagram socket, never blocking (agent.md §14, dispatcher.md §16).

use crate::paths::Root;
use ctrl_exec_protocol::log_line::Line;
use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Facility `daemon` (RFC 3164).
const FACILITY: u8 = 3;

/// How grave a line is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// Something failed.
    Err,
    /// Worth a look.
    Warning,
    /// The ordinary course.
    Info,
}

impl Level {
    fn severity(self) -> u8 {
        match self {
            Self::Err => 3,
            Self::Warning => 4,
            Self::Info => 6,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Err => "ERR",
            Self::Warning => "WARNING",
            Self::Info => "INFO",
        }
    }
}

/// A log with an ident. Where no log socket answers, lines go to standard error.
#[derive(Debug)]
pub struct Syslog {
    ident: &'static str,
    path: PathBuf,
    socket: RefCell<Option<UnixDatagram>>,
    to_stderr: bool,
}

impl Syslog {
    /// The log of the system, or below `root`. Opening cannot fail: the socket is looked for again
    /// with each line until it is there.
    pub fn open(ident: &'static str, root: &Root) -> Self {
        let log = Self {
            ident,
            path: root.path("/dev/log"),
            socket: RefCell::new(None),
            to_stderr: true,
        };
        *log.socket.borrow_mut() = log.connect();
        log
    }

    /// The same log, but lines are dropped where no log socket answers: for commands whose
    /// standard error is read by a person.
    #[must_use]
    pub fn socket_only(mut self) -> Self {
        self.to_stderr = false;
        self
    }

    /// Writes one line. A full socket buffer loses the line rather than blocking the caller.
    pub fn log(&self, level: Level, line: &Line) {
        let message = format!(
            "<{}>{}[{}]: {line}",
            FACILITY * 8 + level.severity(),
            self.ident,
            std::process::id()
        );
        if self.send(message.as_bytes()) || !self.to_stderr {
            return;
        }
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(std::io::stderr(), "{}: {} {line}", self.ident, level.word());
    }

    /// True when the line needs no other way: sent, or lost because the log is too slow.
    fn send(&self, message: &[u8]) -> bool {
        let mut socket = self.socket.borrow_mut();
        // A restarted log daemon leaves a dead socket behind: connect once more, then give up.
        for _ in 0..2 {
            if socket.is_none() {
                *socket = self.connect();
            }
            let Some(open) = socket.as_ref() else {
                return false;
            };
            match open.send(message) {
                Ok(_) => return true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(_) => *socket = None,
            }
        }
        false
    }

    fn connect(&self) -> Option<UnixDatagram> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.connect(&self.path).ok()?;
        Some(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn temp_root(name: &str) -> TempDir {
        let dir = TempDir::new(&format!("syslog-{name}"));
        std::fs::create_dir(dir.file("dev")).unwrap();
        dir
    }

    #[test]
    fn finds_the_log_again_after_it_restarted() {
        let dir = temp_root("restart");
        let path = dir.file("dev/log");
        let first = UnixDatagram::bind(&path).unwrap();
        let log = Syslog::open("prog", &Root::at(dir.path()));
        let mut buffer = [0; 200];
        log.log(Level::Info, &Line::new("start").field("PORT", 1));
        let n = first.recv(&mut buffer).unwrap();
        let expected = format!("<30>prog[{}]: ACTION=start PORT=1", std::process::id());
        assert_eq!(std::str::from_utf8(&buffer[..n]).unwrap(), expected);
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        log.log(Level::Err, &Line::new("stop"));
        let n = second.recv(&mut buffer).unwrap();
        assert!(buffer[..n].starts_with(b"<27>prog["));
    }

    #[test]
    fn a_log_that_does_not_read_never_blocks() {
        let dir = temp_root("full");
        let _reader = UnixDatagram::bind(dir.file("dev/log")).unwrap();
        let log = Syslog::open("prog", &Root::at(dir.path()));
        for _ in 0..5000 {
            log.log(
                Level::Warning,
                &Line::new("overload").field("PEER", "x".repeat(400)),
            );
        }
    }
}
