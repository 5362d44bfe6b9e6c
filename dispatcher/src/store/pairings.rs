//! Requests to be paired, and what was decided about them.

use crate::model::{Decision, Identified, Queued};
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Outcome, PairRequest};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where requests wait. The listener and whoever decides meet only here.
pub trait Pairings: fmt::Debug + Send + Sync {
    /// Queues a request that came from `source` at `now`.
    ///
    /// # Errors
    /// The operating system's.
    fn add(
        &self,
        request: &PairRequest,
        source: &str,
        identified: &Identified,
        now: Utc,
    ) -> Result<Queued, QueueError>;

    /// The undecided requests by arrival.
    ///
    /// # Errors
    /// The operating system's.
    fn pending(&self) -> Result<Vec<Queued>, QueueError>;

    /// The request with this id, approved or undecided.
    ///
    /// # Errors
    /// No such request, or it cannot be read.
    fn load(&self, id: &str) -> Result<Queued, QueueError>;

    /// Keeps a decision with the answer to send; a denial also takes the request away.
    ///
    /// # Errors
    /// The operating system's.
    fn decide(&self, id: &str, outcome: &Outcome) -> Result<(), QueueError>;

    /// The decision about a request with the bytes to send; they stay until
    /// [`finish`](Self::finish).
    fn answer(&self, id: &str) -> Option<(Decision, Vec<u8>)>;

    /// Takes away everything about a request.
    ///
    /// # Errors
    /// The operating system's.
    fn finish(&self, id: &str) -> Result<(), QueueError>;
}

/// Why the queue could not do it.
#[derive(Debug)]
pub enum QueueError {
    /// Not an id of a request.
    BadId(String),
    /// No such request.
    Unknown(String),
    /// Somebody decided already and the agent has not fetched it yet.
    Decided(String),
    /// The request's file is no JSON or lacks something.
    Damaged(PathBuf),
    /// The operating system said no.
    Io(PathBuf, io::Error),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadId(id) => write!(
                f,
                "'{}' is no request id (16 lower-case hex digits, see list-requests)",
                id.escape_debug()
            ),
            Self::Unknown(id) => write!(f, "no pending request '{id}'"),
            Self::Decided(id) => write!(f, "request '{id}' was decided already"),
            Self::Damaged(path) => write!(f, "{}: damaged request", path.display()),
            Self::Io(path, error) => {
                write!(f, "{}: {error}", path.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str(" (try sudo)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for QueueError {}
