//! Records of runs.

use crate::model::RunRecord;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// Where records of runs are kept. What one keeps is seen by all that work on the same place.
pub trait Runs: fmt::Debug + Send + Sync {
    /// The record of `reqid`; `None` when there is none, or no run can have this id.
    ///
    /// # Errors
    /// The operating system's, and a file that is empty, cut or otherwise no record.
    fn load(&self, reqid: &str) -> Result<Option<RunRecord>, RunStoreError>;

    /// Writes a record.
    ///
    /// # Errors
    /// A bad id, or the operating system's.
    fn save(&self, record: &RunRecord) -> Result<(), RunStoreError>;

    /// Reads, changes and writes one record while no other poller of ours does. `None` when the
    /// record is gone. The reference takes no lock; its last write wins.
    ///
    /// # Errors
    /// As for reading and writing.
    fn update(
        &self,
        reqid: &str,
        change: &mut dyn FnMut(&mut RunRecord),
    ) -> Result<Option<RunRecord>, RunStoreError>;

    /// Deletes records older than [`KEEP`] by modification time; returns how many.
    ///
    /// # Errors
    /// The operating system's.
    fn purge(&self, now: SystemTime) -> Result<usize, RunStoreError>;
}

/// Why a record could not be read or written.
#[derive(Debug)]
pub enum RunStoreError {
    /// Not an id that a run can have.
    BadId(String),
    /// There is a file, and it is no record.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The operating system said no.
    Io(PathBuf, io::Error),
}

impl fmt::Display for RunStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadId(id) => write!(f, "'{}' is no request id", id.escape_debug()),
            Self::Damaged { path, fault } => {
                write!(f, "the record {} is unreadable: {fault}", path.display())
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for RunStoreError {}
