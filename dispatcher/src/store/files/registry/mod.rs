//! The agent registry: one JSON file per agent in one directory, in the format and under the lock
//! of the reference (dispatcher.md §6), so both may work on one directory.

mod repair;
mod tag_index;

pub use crate::store::agents::{Damaged, Listing, RegistryError};
pub use repair::Repaired;

use crate::model::AgentRecord;
use crate::store::agents::Agents;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Batch, Perm};
use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_protocol::names;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the registry lives, below the root.
pub const DIR: &str = "/var/lib/ctrl-exec/agents";
/// Largest record file read; an honest one has a few hundred bytes.
const MAX_FILE: u64 = 1 << 20;

/// Records that are written at once, where many are.
const BATCH: usize = 5_000;
const PERM: Perm = Perm {
    mode: 0o644,
    owner: None,
};

/// A registry directory.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// The registry in `dir`; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record of `name`, if there is one. A name that no agent can have is not registered,
    /// whatever lies at that path.
    ///
    /// # Errors
    /// The operating system's; [`RegistryError::Damaged`] for a file that is empty, cut, too large
    /// or otherwise no record.
    pub fn load(&self, name: &str) -> Result<Option<AgentRecord>, RegistryError> {
        if !names::is_agent_name(name) {
            return Ok(None);
        }
        let path = self.path(name);
        match Bounded::new(MAX_FILE).no_follow().optional(&path) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => match AgentRecord::parse(name, &bytes) {
                Ok(record) => Ok(Some(record)),
                Err(_) if bytes.is_empty() => Err(self.damaged(name, "empty")),
                Err(_) => Err(self.damaged(name, "no JSON object, or cut")),
            },
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput
                ) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) =>
            {
                Err(self.damaged(name, &error.to_string()))
            }
            Err(error) => Err(io_error("read", &path, error)),
        }
    }

    fn damaged(&self, name: &str, fault: &str) -> RegistryError {
        RegistryError::Damaged(Damaged {
            name: name.to_owned(),
            path: self.path(name),
            fault: fault.to_owned(),
        })
    }

    /// Like [`load`](Self::load), but an agent that is not there is an error.
    pub fn require(&self, name: &str) -> Result<AgentRecord, RegistryError> {
        self.check_name(name)?;
        self.load(name)?
            .ok_or_else(|| RegistryError::Unknown(name.to_owned()))
    }

    /// All names, sorted, without opening the files. An absent directory is an empty registry.
    pub fn names(&self) -> Result<Vec<String>, RegistryError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &self.dir, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io_error("read", &self.dir, error))?;
            if let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|f| f.strip_suffix(".json"))
            {
                if names::is_agent_name(name) {
                    found.push(name.to_owned());
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// All records, and the files that are none. One that goes away meanwhile is left out.
    ///
    /// # Errors
    /// The operating system's.
    pub fn list(&self) -> Result<Listing, RegistryError> {
        let names = self.names()?;
        let threads = match std::thread::available_parallelism() {
            Ok(n) if names.len() > 2_000 => n.get().min(8),
            _ => 1,
        };
        let share = names.len().div_ceil(threads).max(1);
        let mut listing = Listing::default();
        listing.records.reserve(names.len());
        std::thread::scope(|scope| {
            let workers: Vec<_> = names
                .chunks(share)
                .map(|chunk| {
                    scope.spawn(move || {
                        let mut part = Listing::default();
                        for name in chunk {
                            match self.load(name) {
                                Ok(record) => part.records.extend(record),
                                Err(RegistryError::Damaged(damaged)) => part.damaged.push(damaged),
                                Err(error) => return Err(error),
                            }
                        }
                        Ok(part)
                    })
                })
                .collect();
            for worker in workers {
                match worker.join() {
                    Ok(part) => {
                        let part = part?;
                        listing.records.extend(part.records);
                        listing.damaged.extend(part.damaged);
                    }
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<(), RegistryError>(())
        })?;
        let by_host = |a: &AgentRecord, b: &AgentRecord| a.hostname().cmp(b.hostname());
        listing.records.sort_by(by_host);
        Ok(listing)
    }

    /// Writes a whole record, new or over an old one, as pairing does.
    pub fn register(&self, record: &AgentRecord) -> Result<(), RegistryError> {
        self.ensure_dir()?;
        let _lock = self.lock()?;
        self.write(record)
    }

    /// Changes one record under the lock and returns it as written. An agent that is not there
    /// stays away: the reference would bring one back that was unpaired meanwhile (DEVIATE).
    pub fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError> {
        self.check_name(name)?;
        self.check_there(name)?;
        let _lock = self.lock()?;
        let mut record = self.require(name)?;
        change(&mut record);
        self.write(&record)?;
        Ok(record)
    }

    /// Changes many records under one lock; `change` says whether a record is to be written.
    /// Returns how many were. Agents that are gone are left out, and so are records that cannot be
    /// read: one of them must not stop what concerns the others, and [`list`](Self::list) names
    /// it.
    pub fn update_many<S: AsRef<str>>(
        &self,
        names: &[S],
        mut change: impl FnMut(&mut AgentRecord) -> bool,
    ) -> Result<usize, RegistryError> {
        if names.is_empty() {
            return Ok(0);
        }
        let _lock = self.lock()?;
        let mut written = 0;
        let mut batch = Batch::new(&self.dir);
        for name in names {
            let mut record = match self.load(name.as_ref()) {
                Ok(Some(record)) => record,
                Ok(None) | Err(RegistryError::Damaged(_)) => continue,
                Err(error) => return Err(error),
            };
            if !change(&mut record) {
                continue;
            }
            self.check_name(record.name())?;
            let path = self.path(record.name());
            batch
                .stage(
                    &file_name(record.name()),
                    record.to_json().as_bytes(),
                    &PERM,
                )
                .map_err(|error| io_error("write", &path, error))?;
            written += 1;
            if batch.len() == BATCH {
                std::mem::replace(&mut batch, Batch::new(&self.dir))
                    .commit()
                    .map_err(|error| io_error("write", &self.dir, error))?;
            }
        }
        batch
            .commit()
            .map_err(|error| io_error("write", &self.dir, error))?;
        Ok(written)
    }

    /// Renames an agent and applies `change` in the same step.
    pub fn rename(
        &self,
        old: &str,
        new: &str,
        change: impl FnOnce(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError> {
        self.check_name(old)?;
        self.check_name(new)?;
        self.check_there(old)?;
        let _lock = self.lock()?;
        let mut record = self.require(old)?;
        if old != new {
            if self.path(new).exists() {
                return Err(RegistryError::Exists(new.to_owned()));
            }
            record.rename(new);
        }
        change(&mut record);
        self.write(&record)?;
        if old != new {
            self.unlink(old)?;
        }
        Ok(record)
    }

    /// Removes an agent and returns what its record said.
    ///
    /// # Errors
    /// The operating system's, no such agent, or a record that cannot be read: what is lost with it
    /// should be looked at first.
    pub fn remove(&self, name: &str) -> Result<AgentRecord, RegistryError> {
        self.check_name(name)?;
        self.check_there(name)?;
        let _lock = self.lock()?;
        let record = self.require(name)?;
        self.unlink(name)?;
        Ok(record)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(file_name(name))
    }

    fn check_name(&self, name: &str) -> Result<(), RegistryError> {
        if names::is_agent_name(name) {
            Ok(())
        } else {
            Err(RegistryError::BadName(name.to_owned()))
        }
    }

    fn write(&self, record: &AgentRecord) -> Result<(), RegistryError> {
        self.check_name(record.name())?;
        let path = self.path(record.name());
        durable::write(&path, record.to_json().as_bytes(), &PERM)
            .map_err(|error| io_error("write", &path, error))
    }

    fn unlink(&self, name: &str) -> Result<(), RegistryError> {
        let path = self.path(name);
        match durable::remove(&path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(RegistryError::Unknown(name.to_owned())),
            Err(error) => Err(io_error("remove", &path, error)),
        }
    }

    fn ensure_dir(&self) -> Result<(), RegistryError> {
        crate::store::files::dirs::ensure(&self.dir)
            .map_err(|error| io_error("create", &self.dir, error))
    }

    /// Names the unknown agent before a lock file is made beside nothing.
    fn check_there(&self, name: &str) -> Result<(), RegistryError> {
        if self.path(name).exists() {
            Ok(())
        } else {
            Err(RegistryError::Unknown(name.to_owned()))
        }
    }

    /// Takes the registry lock, waiting for it. A lock file of root's that we may only read is
    /// locked through a read-only descriptor; the reference would go ahead without (DEVIATE). The
    /// directory is a group's, so a link in the lock's place is not followed.
    fn lock(&self) -> Result<Lock, RegistryError> {
        let path = self.dir.join(".registry.lock");
        lock::open(&path, 0o660)
            .or_else(|_| lock::open_existing(&path))
            .and_then(|file| lock::wait(file, Kind::Exclusive))
            .map_err(|error| io_error("lock", &path, error))
    }
}

fn file_name(name: &str) -> String {
    format!("{name}.json")
}

fn io_error(doing: &'static str, path: &Path, error: io::Error) -> RegistryError {
    RegistryError::Io {
        doing,
        path: path.to_owned(),
        error,
    }
}

impl Agents for Registry {
    fn load(&self, name: &str) -> Result<Option<AgentRecord>, RegistryError> {
        Registry::load(self, name)
    }

    fn names(&self) -> Result<Vec<String>, RegistryError> {
        Registry::names(self)
    }

    fn list(&self) -> Result<Listing, RegistryError> {
        Registry::list(self)
    }

    fn register(&self, record: &AgentRecord) -> Result<(), RegistryError> {
        Registry::register(self, record)
    }

    fn update(
        &self,
        name: &str,
        change: &mut dyn FnMut(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError> {
        Registry::update(self, name, change)
    }

    fn update_many(
        &self,
        names: &[&str],
        change: &mut dyn FnMut(&mut AgentRecord) -> bool,
    ) -> Result<usize, RegistryError> {
        Registry::update_many(self, names, change)
    }

    fn rename(
        &self,
        old: &str,
        new: &str,
        change: &mut dyn FnMut(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError> {
        Registry::rename(self, old, new, change)
    }

    fn remove(&self, name: &str) -> Result<AgentRecord, RegistryError> {
        Registry::remove(self, name)
    }
}

#[cfg(test)]
mod tests;
