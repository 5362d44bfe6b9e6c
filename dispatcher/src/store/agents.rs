//! What is recorded of agents.

use crate::model::AgentRecord;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where records of agents are kept. What one keeps is seen by all that work on the same place.
pub trait Agents: fmt::Debug + Send + Sync {
    /// The record of `name`; `None` when there is none, or no agent can have this name.
    ///
    /// # Errors
    /// The operating system's, and a record that cannot be read.
    fn load(&self, name: &str) -> Result<Option<AgentRecord>, RegistryError>;

    /// The names of all agents, sorted, those with unreadable records included.
    ///
    /// # Errors
    /// The operating system's.
    fn names(&self) -> Result<Vec<String>, RegistryError>;

    /// All records by host name, and those that cannot be read.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self) -> Result<Listing, RegistryError>;

    /// Writes a whole record, new or over an old one.
    ///
    /// # Errors
    /// A bad name, or the operating system's.
    fn register(&self, record: &AgentRecord) -> Result<(), RegistryError>;

    /// Changes one record while nobody else does; returns it as written. An agent that is not there
    /// stays away.
    ///
    /// # Errors
    /// No such agent, or as for reading and writing.
    fn update(
        &self,
        name: &str,
        change: &mut dyn FnMut(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError>;

    /// Changes many records in one step; `change` says whether one is to be written. Returns how
    /// many were. Those that are gone or cannot be read are left out.
    ///
    /// # Errors
    /// The operating system's.
    fn update_many(
        &self,
        names: &[&str],
        change: &mut dyn FnMut(&mut AgentRecord) -> bool,
    ) -> Result<usize, RegistryError>;

    /// Renames an agent and applies `change` in the same step.
    ///
    /// # Errors
    /// The new name is taken, or as for [`update`](Self::update).
    fn rename(
        &self,
        old: &str,
        new: &str,
        change: &mut dyn FnMut(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError>;

    /// Removes an agent and returns what its record said.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    fn remove(&self, name: &str) -> Result<AgentRecord, RegistryError>;
}

/// Why the registry could not do it.
#[derive(Debug)]
pub enum RegistryError {
    /// Not a name an agent can have.
    BadName(String),
    /// No such agent.
    Unknown(String),
    /// There is a file, and it is no record. The agent is registered all the same.
    Damaged(Damaged),
    /// The new name is taken.
    Exists(String),
    /// The operating system said no.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
}

/// A record that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damaged {
    /// Registry name of the agent.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the record of '{}' is unreadable ({}: {}); 'ced doctor --repair' makes a new one of \
             what is known",
            self.name,
            self.path.display(),
            self.fault
        )
    }
}

/// What the registry holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The records, by host name.
    pub records: Vec<AgentRecord>,
    /// The agents whose record cannot be read, by name.
    pub damaged: Vec<Damaged>,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(name) => write!(
                f,
                "invalid agent name '{}': it must begin with a letter or digit and hold only \
                 letters, digits, '.', '_' and '-'",
                name.escape_debug()
            ),
            Self::Unknown(name) => write!(f, "no agent named '{}'", name.escape_debug()),
            Self::Damaged(damaged) => damaged.fmt(f),
            Self::Exists(name) => write!(f, "an agent named '{name}' already exists"),
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str(" (try sudo, or join the group that owns it)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for RegistryError {}
