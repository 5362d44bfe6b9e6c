//! Locks on (host, script) pairs.
//!
//! A run holds them while its command goes on. What it notes in them stays when the command is
//! gone, until the end of the run on that host is known: a run whose end nobody has seen keeps
//! others away.

use crate::model::{Holder, LockNote};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where locks are held, against everybody who works on the same place, this process included.
pub trait Locks: fmt::Debug + Send + Sync {
    /// Takes the lock of every (host word, script) pair, or none of them. A word with a port takes
    /// that of the bare name as well. A note that a run has left there keeps the lock too, unless
    /// its time is over `now` (seconds since 1970) or its run is `passed_over`: named, so that nothing
    /// that was started since is passed over as well.
    ///
    /// # Errors
    /// Somebody holds one, or the operating system's.
    fn acquire(
        &self,
        hosts: &[String],
        script: &str,
        now: i64,
        passed_over: &[String],
    ) -> Result<Held, LockError>;

    /// Who holds locks now, in harmless spelling, sorted; those that a note keeps among them.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self) -> Result<Vec<Holder>, LockError>;

    /// Removes the notes that runs have left and of which `is_over` says so. Locks that a command
    /// holds are not looked at. Returns how many.
    ///
    /// # Errors
    /// The operating system's.
    fn settle(&self, is_over: &dyn Fn(&LockNote) -> bool) -> Result<usize, LockError>;
}

/// The locks that one [`Held`] stands for; they end with it, and notes stay.
pub trait Guard: Send {
    /// Notes whose run this is, in the locks of a host word.
    fn note(&mut self, word: &str, note: &LockNote);

    /// Removes the note in the locks of a host word: the end there is known.
    fn over(&mut self, word: &str);
}

/// Locks held until this is dropped.
pub struct Held {
    guard: Box<dyn Guard>,
}

impl Held {
    /// Locks that dropping `guard` lets go.
    pub fn new(guard: impl Guard + 'static) -> Self {
        Self {
            guard: Box::new(guard),
        }
    }

    /// Notes whose run this is, in the locks of a host word.
    pub fn note(&mut self, word: &str, note: &LockNote) {
        self.guard.note(word, note);
    }

    /// The end of the run on this host is known.
    pub fn over(&mut self, word: &str) {
        self.guard.over(word);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// Why locks could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Somebody holds these.
    Held(Vec<Holder>),
    /// A lock file could not be opened or locked.
    Io(PathBuf, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(holders) => {
                let holders: Vec<String> = holders.iter().map(Holder::to_string).collect();
                write!(f, "locked: {}", holders.join(", "))
            }
            Self::Io(path, error) => {
                write!(f, "cannot lock {}: {error}", path.display())?;
                if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
                    f.write_str(" (each host needs one: raise the hard limit with ulimit -Hn)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LockError {}
