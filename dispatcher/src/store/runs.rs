//! Records of runs.

use crate::model::RunRecord;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

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

    /// The ids of all records, those written last first.
    ///
    /// # Errors
    /// The operating system's.
    fn ids(&self) -> Result<Vec<String>, RunStoreError>;

    /// Deletes records that are not to be kept any longer; returns how many.
    ///
    /// # Errors
    /// The operating system's.
    fn purge(&self, now: SystemTime, keep: &Retention) -> Result<usize, RunStoreError>;
}

/// How long records are kept, by when they were last written.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// So long at most.
    pub age: Duration,
    /// So many bytes at most, all together: the oldest go first.
    pub bytes: u64,
}

impl Retention {
    /// Records younger than this stay, whatever their size: their runs may be under way.
    pub const LEAST: Duration = Duration::from_secs(3_600);

    /// Which of these are not kept: given are ids, times of writing and sizes.
    pub fn surplus<T>(&self, now: SystemTime, mut records: Vec<(T, SystemTime, u64)>) -> Vec<T> {
        records.sort_by_key(|(_, written, _)| std::cmp::Reverse(*written));
        let mut total = 0_u64;
        let surplus = records.into_iter().filter_map(|(id, written, size)| {
            let age = now.duration_since(written).unwrap_or_default();
            total = total.saturating_add(size);
            let old = age > self.age || (total > self.bytes && age > Self::LEAST);
            old.then_some(id)
        });
        surplus.collect()
    }
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
