//! The queue directory (pki-and-pairing.md §7.4): one file per request, one per decision.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::random;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Outcome, PairRequest};

use crate::model::{Decision, Identified, Queued};
use crate::store::pairings::Pairings;
pub use crate::store::pairings::QueueError;

/// Where the queue lives, below the root.
pub const DIR: &str = "/var/lib/ctrl-exec/pairing";

/// A request or decision older than this is nobody's any more.
const STALE: Duration = Duration::from_secs(600);
/// Largest queue file read: a request body plus what the listener adds.
const MAX_FILE: u64 = 128 * 1024;

/// A queue directory.
#[derive(Clone, Debug)]
pub struct Queue {
    dir: PathBuf,
}

impl Queue {
    /// The queue in `dir`; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Queues a request that came from `source` at `now`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn add(
        &self,
        request: &PairRequest,
        source: &str,
        identified: &Identified,
        now: Utc,
    ) -> Result<Queued, QueueError> {
        crate::store::files::dirs::ensure(&self.dir).map_err(|error| self.io(&self.dir, error))?;
        let id = random::hex_id().map_err(|error| self.io(&self.dir, error))?;
        let queued = Queued::of(request, id, source, identified, now);
        self.write(&queued.id, "json", queued.to_json().as_bytes())?;
        Ok(queued)
    }

    /// Removes what nobody waits for any more, then lists the undecided requests by arrival.
    /// Files that are damaged or have another name are left out.
    ///
    /// # Errors
    /// The operating system's; an absent directory is an empty queue.
    pub fn pending(&self) -> Result<Vec<Queued>, QueueError> {
        // Whoever may only look cannot clear away what is overdue.
        let _ = self.expire();
        let mut found = Vec::new();
        for id in self.ids("json")? {
            if self.decision(&id).is_some() {
                continue;
            }
            if let Ok(queued) = self.load(&id) {
                found.push(queued);
            }
        }
        found.sort_by(|a, b| (&a.received, &a.id).cmp(&(&b.received, &b.id)));
        Ok(found)
    }

    /// How many requests wait, without reading them.
    ///
    /// # Errors
    /// The operating system's.
    pub fn len(&self) -> Result<usize, QueueError> {
        let ids = self.ids("json")?;
        Ok(ids.iter().filter(|id| self.decision(id).is_none()).count())
    }

    /// Whether nobody waits.
    ///
    /// # Errors
    /// The operating system's.
    pub fn is_empty(&self) -> Result<bool, QueueError> {
        self.len().map(|length| length == 0)
    }

    /// The request with this id, decided or not.
    ///
    /// # Errors
    /// No such request, or its file is damaged.
    pub fn load(&self, id: &str) -> Result<Queued, QueueError> {
        let path = self.path(id, "json")?;
        let bytes = read_bounded(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => QueueError::Unknown(id.to_owned()),
            _ => self.io(&path, error),
        })?;
        Queued::parse(id, &bytes).ok_or(QueueError::Damaged(path))
    }

    /// The request with this id if nobody decided about it yet.
    ///
    /// # Errors
    /// As [`load`](Self::load), or decided already.
    pub fn undecided(&self, id: &str) -> Result<Queued, QueueError> {
        let queued = self.load(id)?;
        match self.decision(id) {
            Some(_) => Err(QueueError::Decided(id.to_owned())),
            None => Ok(queued),
        }
    }

    /// Writes a decision with the answer to send; a denial also takes the request away.
    ///
    /// # Errors
    /// The operating system's.
    pub fn decide(&self, id: &str, outcome: &Outcome) -> Result<(), QueueError> {
        let decision = match outcome {
            Outcome::Approved(_) => Decision::Approved,
            Outcome::Denied { .. } => Decision::Denied,
        };
        self.write(id, suffix_of(decision), outcome.render().as_bytes())?;
        if decision == Decision::Denied {
            self.remove(id, "json")?;
        }
        Ok(())
    }

    /// Which decision lies there for this id.
    pub fn decision(&self, id: &str) -> Option<Decision> {
        [Decision::Approved, Decision::Denied]
            .into_iter()
            .find(|kind| {
                self.path(id, suffix_of(*kind))
                    .is_ok_and(|path| path.exists())
            })
    }

    /// The decision for this id with the bytes to send; the files stay until
    /// [`finish`](Self::finish).
    pub fn answer(&self, id: &str) -> Option<(Decision, Vec<u8>)> {
        let decision = self.decision(id)?;
        let path = self.path(id, suffix_of(decision)).ok()?;
        read_bounded(&path).ok().map(|bytes| (decision, bytes))
    }

    /// Takes away everything about a request: it was answered, or nobody waits for it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&self, id: &str) -> Result<(), QueueError> {
        for suffix in ["json", "approved", "denied"] {
            self.remove(id, suffix)?;
        }
        Ok(())
    }

    /// Removes requests and decisions older than ten minutes. (The reference keeps a decision that
    /// was never fetched for ever, with its request, which goes on counting: DEVIATE.)
    ///
    /// # Errors
    /// The operating system's.
    pub fn expire(&self) -> Result<(), QueueError> {
        let now = SystemTime::now();
        for id in self.ids("json")? {
            let newest = ["json", "approved", "denied"]
                .iter()
                .filter_map(|suffix| modified(&self.path(&id, suffix).ok()?))
                .max();
            if newest.is_some_and(|time| is_stale(time, now)) {
                self.finish(&id)?;
            }
        }
        for suffix in ["approved", "denied"] {
            for id in self.ids(suffix)? {
                let path = self.path(&id, suffix)?;
                if modified(&path).is_some_and(|time| is_stale(time, now)) {
                    self.finish(&id)?;
                }
            }
        }
        Ok(())
    }

    fn ids(&self, suffix: &str) -> Result<Vec<String>, QueueError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.io(&self.dir, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry
                .map_err(|error| self.io(&self.dir, error))?
                .file_name();
            let Some((id, rest)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            if rest == suffix && names::is_queue_id(id) {
                found.push(id.to_owned());
            }
        }
        Ok(found)
    }

    fn path(&self, id: &str, suffix: &str) -> Result<PathBuf, QueueError> {
        if names::is_queue_id(id) {
            Ok(self.dir.join(format!("{id}.{suffix}")))
        } else {
            Err(QueueError::BadId(id.to_owned()))
        }
    }

    fn write(&self, id: &str, suffix: &str, bytes: &[u8]) -> Result<(), QueueError> {
        let path = self.path(id, suffix)?;
        durable::write(&path, bytes, &Perm::mode(0o644)).map_err(|error| self.io(&path, error))
    }

    fn remove(&self, id: &str, suffix: &str) -> Result<(), QueueError> {
        let path = self.path(id, suffix)?;
        durable::remove(&path)
            .map(|_| ())
            .map_err(|error| self.io(&path, error))
    }

    fn io(&self, path: &Path, error: io::Error) -> QueueError {
        QueueError::Io(path.to_owned(), error)
    }
}

impl Pairings for Queue {
    fn add(
        &self,
        request: &PairRequest,
        source: &str,
        identified: &Identified,
        now: Utc,
    ) -> Result<Queued, QueueError> {
        Queue::add(self, request, source, identified, now)
    }

    fn pending(&self) -> Result<Vec<Queued>, QueueError> {
        Queue::pending(self)
    }

    fn load(&self, id: &str) -> Result<Queued, QueueError> {
        Queue::load(self, id)
    }

    fn decide(&self, id: &str, outcome: &Outcome) -> Result<(), QueueError> {
        Queue::decide(self, id, outcome)
    }

    fn answer(&self, id: &str) -> Option<(Decision, Vec<u8>)> {
        Queue::answer(self, id)
    }

    fn finish(&self, id: &str) -> Result<(), QueueError> {
        Queue::finish(self, id)
    }
}

/// Whole, or an error: a part of a request is none. The directory is a group's, so links are not
/// followed and nothing is waited for.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    Bounded::new(MAX_FILE).no_follow().read(path)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).ok()?.modified().ok()
}

fn is_stale(time: SystemTime, now: SystemTime) -> bool {
    now.duration_since(time).is_ok_and(|age| age > STALE)
}

/// How the file of a decision ends.
fn suffix_of(decision: Decision) -> &'static str {
    match decision {
        Decision::Approved => "approved",
        Decision::Denied => "denied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::testing::TempDir;

    #[test]
    fn files_are_a_queue() {
        let dir = TempDir::new();
        conformance::pairings(&Queue::new(dir.path().join("pairing")));
    }
}
