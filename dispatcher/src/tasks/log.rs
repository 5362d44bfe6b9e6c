//! The log, for tasks on any thread.

use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use std::sync::{Mutex, PoisonError};

/// The log of a dispatcher.
pub struct Log {
    shared: Mutex<Syslog>,
    open: Box<dyn Fn() -> Syslog + Send + Sync>,
}

impl Log {
    /// A log that `open` opens: once for short tasks together, and once for each of those that
    /// take their time and write by themselves.
    pub fn new(open: impl Fn() -> Syslog + Send + Sync + 'static) -> Self {
        Self {
            shared: Mutex::new(open()),
            open: Box::new(open),
        }
    }

    /// Writes a line.
    pub fn log(&self, level: Level, line: &Line) {
        let log = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        log.log(level, line);
    }

    /// A handle of its own.
    pub fn handle(&self) -> Syslog {
        (self.open)()
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}
