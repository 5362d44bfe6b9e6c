//! Locks on (host, script) pairs.

use rustix::io::Errno;
use std::any::Any;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where locks are held, against everybody who works on the same place, this process included.
pub trait Locks: fmt::Debug + Send + Sync {
    /// Takes the lock of every (host word, script) pair, or none of them. A word with a port takes
    /// that of the bare name as well.
    ///
    /// # Errors
    /// Somebody holds one, or the operating system's.
    fn acquire(&self, hosts: &[String], script: &str) -> Result<Held, LockError>;

    /// The pairs held now by anybody, in harmless spelling, sorted.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self) -> Result<Vec<(String, String)>, LockError>;
}

/// Locks held until this is dropped.
pub struct Held {
    _guard: Box<dyn Any + Send>,
}

impl Held {
    /// Locks that dropping `guard` lets go.
    pub fn new(guard: impl Any + Send) -> Self {
        Self {
            _guard: Box::new(guard),
        }
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
    /// Somebody holds these, given as `host:script`.
    Held(Vec<String>),
    /// A lock file could not be opened or locked.
    Io(PathBuf, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(pairs) => write!(f, "locked: {}", pairs.join(", ")),
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
