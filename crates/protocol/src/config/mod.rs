//! The agent's two configuration files, read by one parser for both halves.
//!
//! The network front-end (`ctrl-exec-agent`) and the root executor (`ctrl-exec-exec`) read the
//! same `agent.conf` and `scripts.conf`. The reference has a parser per half and they differ
//! (executor.md §9); here both call [`AgentConf::parse`], [`ScriptsConf::parse`] and
//! [`decision::resolve`], so they cannot disagree. Where the reference's halves differ, the
//! stricter reading was taken; `docs/compat/executor.md` has the table.
//!
//! Nothing here touches a file: callers read the bytes (at most [`MAX_FILE_BYTES`]), turn them
//! into text with [`decode`] and hand in the text with the file's name for messages.

pub mod agent_conf;
mod agent_conf_reader;
pub mod caps;
pub mod decision;
pub mod ip_list;
mod keys;
mod lines;
pub mod overrides;
pub mod profile;
pub mod scripts_conf;
#[cfg(test)]
mod tests;

use crate::text::Untrusted;
use std::fmt;

pub use agent_conf::{AgentConf, ArgumentText, Listener, LogLevel, RateLimit};
pub use decision::{Decision, Deny, Located, Permit};
pub use ip_list::IpList;
pub use profile::{KernelSettings, Processes, Profile, RunAs, UnixSockets};
pub use scripts_conf::{Script, ScriptsConf};

/// Largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// Longest name (profile, script, user) in bytes; the reference cuts longer ones silently
/// (executor.md §6.1, §9.6), we refuse them.
pub const MAX_NAME: usize = 127;
/// Longest value in bytes (executor.md §6.1).
pub const MAX_VALUE: usize = 4095;

/// A fault that makes a configuration unusable: which file, which line, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the caller named it.
    pub file: String,
    /// Line number counted from 1; absent when no single line is at fault.
    pub line: Option<usize>,
    /// The fault, one sentence without a full stop.
    pub fault: String,
}

impl ConfigError {
    /// A fault of the file as a whole.
    pub fn whole(file: &str, fault: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            fault: fault.into(),
        }
    }

    pub(crate) fn at(file: &str, line: usize, fault: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: Some(line),
            fault: fault.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}: line {line}: {}", self.file, self.fault),
            None => write!(f, "{}: {}", self.file, self.fault),
        }
    }
}

impl std::error::Error for ConfigError {}

/// What a [`Warning`] is about; the agent logs it as `ENTRY` or `KEY` (agent.md §14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One item of a list, such as an address of `allowed_ips`.
    Entry(String),
    /// A configuration key.
    Key(String),
    /// A whole line.
    Line,
}

/// Something that was ignored or is likely a mistake, without making the file unusable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line number counted from 1.
    pub line: usize,
    /// What the message is about.
    pub subject: Subject,
    /// The message, one sentence without a full stop.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.subject {
            Subject::Entry(text) | Subject::Key(text) => {
                write!(f, "{}: {}", shown(text), self.message)
            }
            Subject::Line => f.write_str(&self.message),
        }
    }
}

/// Turns a file's bytes into text.
///
/// Comments may hold any bytes (older files are often Latin-1); anywhere else bytes that are not
/// UTF-8 would make a path or a name mean something else, so they are a fault.
///
/// # Errors
/// The file is larger than [`MAX_FILE_BYTES`], or a line that is not a comment is not UTF-8.
pub fn decode(bytes: &[u8], file: &str) -> Result<String, ConfigError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(ConfigError::whole(file, "file is larger than 1 MiB"));
    }
    let mut text = String::with_capacity(bytes.len());
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match std::str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(_) if line.trim_ascii_start().first() == Some(&b'#') => text.push_str("#\n"),
            Err(_) => return Err(ConfigError::at(file, index + 1, "line is not UTF-8 text")),
        }
    }
    Ok(text)
}

/// Text from a file or peer made fit for a message.
pub(crate) fn shown(text: &str) -> Untrusted<'_> {
    Untrusted::new(text).at_most(120)
}
