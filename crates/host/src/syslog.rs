//! The system log, over its datagram socket, never blocking (agent.md §14, dispatcher.md §16).

use crate::paths::Root;
use crate::stderr;
use ctrl_exec_protocol::log_line::Line;
use heapless::String;
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Facility `daemon` (RFC 3164).
const FACILITY: u8 = 3;
/// A line with its head: more than [`Line`] and the head ever need.
const MESSAGE: usize = 2048;
/// After a search for a log socket that is not there, how long the next one waits.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

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
///
/// A line is formatted once, on the stack, and sent by one call that does not wait. What the log
/// does not take is dropped and counted; the count precedes the next line that it takes.
#[derive(Debug)]
pub struct Syslog {
    ident: &'static str,
    pid: u32,
    path: PathBuf,
    socket: RefCell<Option<UnixDatagram>>,
    /// When the socket was last looked for in vain.
    missed: Cell<Option<Instant>>,
    dropped: Cell<u64>,
    to_stderr: bool,
    least: Cell<Level>,
}

/// How sending went.
enum Sent {
    Taken,
    Full,
    NoLog,
}

impl Syslog {
    /// The log of the system, or below `root`. Opening cannot fail: the socket is looked for again
    /// with each line until it is there.
    pub fn open(ident: &'static str, root: &Root) -> Self {
        let log = Self {
            ident,
            pid: std::process::id(),
            path: root.path("/dev/log"),
            socket: RefCell::new(None),
            missed: Cell::new(None),
            dropped: Cell::new(0),
            to_stderr: true,
            least: Cell::new(Level::Info),
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

    /// From now on leaves out lines that are less grave than `least`.
    pub fn set_least(&self, least: Level) {
        self.least.set(least);
    }

    /// Writes one line. A full socket buffer loses the line rather than blocking the caller.
    pub fn log(&self, level: Level, line: &Line) {
        if level.severity() > self.least.get().severity() {
            return;
        }
        let lost = self.dropped.get();
        if lost > 0 {
            let note = Line::new("log-dropped").field("COUNT", lost);
            if !self.put(Level::Warning, &note) {
                self.dropped.set(lost + 1);
                return;
            }
            self.dropped.set(0);
        }
        if !self.put(level, line) {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Lines that the log did not take since the last one that it took.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// False when the line was lost.
    fn put(&self, level: Level, line: &Line) -> bool {
        let mut message: String<MESSAGE> = String::new();
        let priority = FACILITY * 8 + level.severity();
        // Both texts fit; what would not is cut.
        let _ = write!(message, "<{priority}>{}[{}]: {line}", self.ident, self.pid);
        match self.send(message.as_bytes()) {
            Sent::Taken => true,
            Sent::Full => false,
            Sent::NoLog if self.to_stderr => {
                message.clear();
                let _ = writeln!(message, "{}: {} {line}", self.ident, level.word());
                stderr::write(message.as_bytes());
                // Standard error counts what it drops itself.
                true
            }
            Sent::NoLog => true,
        }
    }

    fn send(&self, message: &[u8]) -> Sent {
        let mut socket = self.socket.borrow_mut();
        // A restarted log daemon leaves a dead socket behind: connect once more, then give up.
        for _ in 0..2 {
            if socket.is_none() {
                *socket = self.search();
            }
            let Some(open) = socket.as_ref() else {
                return Sent::NoLog;
            };
            match open.send(message) {
                Ok(_) => return Sent::Taken,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Sent::Full,
                Err(_) => *socket = None,
            }
        }
        Sent::NoLog
    }

    /// Connects, unless that was tried in vain a moment ago.
    fn search(&self) -> Option<UnixDatagram> {
        let recent = |at: Instant| at.elapsed() < SEARCH_PAUSE;
        if self.missed.get().is_some_and(recent) {
            return None;
        }
        let socket = self.connect();
        self.missed.set(socket.is_none().then(Instant::now));
        socket
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
    fn lines_below_the_least_level_are_left_out_and_not_counted() {
        let dir = temp_root("least");
        let reader = UnixDatagram::bind(dir.file("dev/log")).unwrap();
        let log = Syslog::open("prog", &Root::at(dir.path()));
        log.set_least(Level::Warning);
        log.log(Level::Info, &Line::new("quiet"));
        log.log(Level::Err, &Line::new("loud"));
        let mut buffer = [0; 1000];
        let n = reader.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..n]).unwrap();
        assert!(text.ends_with("ACTION=loud"), "{text}");
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_log_that_does_not_read_never_blocks() {
        let dir = temp_root("full");
        let reader = UnixDatagram::bind(dir.file("dev/log")).unwrap();
        let log = Syslog::open("prog", &Root::at(dir.path()));
        let line = Line::new("overload").field("PEER", "x".repeat(400));
        for _ in 0..5000 {
            log.log(Level::Warning, &line);
        }
        let dropped = log.dropped();
        assert!((1..5000).contains(&dropped), "{dropped}");
        reader.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1000];
        let mut seen = 0;
        while reader.recv(&mut buffer).is_ok() {
            seen += 1;
        }
        assert_eq!(seen + dropped, 5000);
        log.log(Level::Info, &Line::new("on"));
        assert_eq!(log.dropped(), 0);
        for expected in [
            format!("ACTION=log-dropped COUNT={dropped}"),
            "ACTION=on".into(),
        ] {
            let n = reader.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..n]).unwrap();
            assert!(text.ends_with(&expected), "{text}");
        }
    }
}
