//! What a backup holds, and under which name.
//!
//! A file is stored by what it is, not by where it lay: another host may keep it elsewhere, and an
//! archive can name no path outside of a dispatcher.

use ctrl_exec_protocol::names;
use zeroize::Zeroizing;

/// What a file of a backup is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// `ctrl-exec.conf`.
    Config,
    /// The dispatcher's certificate.
    Cert,
    /// Its key.
    Key,
    /// The certificate from before a rotation.
    PreviousCert,
    /// Its key.
    PreviousKey,
    /// The CA that agents are verified with, where it is not the one that signs.
    Trust,
    /// A file of the CA, `ca.…`.
    Ca(String),
    /// `rotation.json`.
    Rotation,
    /// A file of `/var/lib/ctrl-exec`.
    State(String),
    /// The record of an agent, by its name.
    Agent(String),
    /// The record of a run, by its id.
    Run(String),
}

/// Longest name of a file of CA or state.
const MAX_NAME: usize = 100;

impl Place {
    /// The name in the archive.
    pub fn name(&self) -> String {
        match self {
            Self::Config => "config/ctrl-exec.conf".to_owned(),
            Self::Cert => "identity/dispatcher.crt".to_owned(),
            Self::Key => "identity/dispatcher.key".to_owned(),
            Self::PreviousCert => "identity/dispatcher.crt.prev".to_owned(),
            Self::PreviousKey => "identity/dispatcher.key.prev".to_owned(),
            Self::Trust => "trust/ca.crt".to_owned(),
            Self::Ca(name) => format!("ca/{name}"),
            Self::Rotation => "rotation/rotation.json".to_owned(),
            Self::State(name) => format!("state/{name}"),
            Self::Agent(name) => format!("agents/{name}.json"),
            Self::Run(id) => format!("runs/{id}.json"),
        }
    }

    /// The place with this name; `None` for any other name, so that there is no way out of a
    /// dispatcher's own files.
    pub fn parse(name: &str) -> Option<Self> {
        for fixed in [
            Self::Config,
            Self::Cert,
            Self::Key,
            Self::PreviousCert,
            Self::PreviousKey,
            Self::Trust,
            Self::Rotation,
        ] {
            if name == fixed.name() {
                return Some(fixed);
            }
        }
        let (class, name) = name.split_once('/')?;
        let json = name.strip_suffix(".json");
        match class {
            "ca" => Self::of_ca(name),
            "state" => Self::of_state(name),
            "agents" => {
                let name = json.filter(|name| names::is_agent_name(name))?;
                Some(Self::Agent(name.to_owned()))
            }
            "runs" => {
                let id = json.filter(|id| names::is_reqid(id))?;
                Some(Self::Run(id.to_owned()))
            }
            _ => None,
        }
    }

    /// A file of the CA's directory, if it is the CA's. The counter is none: it must never go
    /// back, so a restored CA gets a new one.
    pub fn of_ca(name: &str) -> Option<Self> {
        let good = name.starts_with("ca.") && name != "ca.serial" && is_plain(name);
        good.then(|| Self::Ca(name.to_owned()))
    }

    /// A file of the state directory, if it is state.
    pub fn of_state(name: &str) -> Option<Self> {
        (is_plain(name) && !NOT_STATE.contains(&name) && !name.starts_with("before-restore-"))
            .then(|| Self::State(name.to_owned()))
    }

    /// Most bytes it may have.
    pub fn most(&self) -> u64 {
        match self {
            Self::Cert | Self::Key | Self::PreviousCert | Self::PreviousKey => 64 << 10,
            Self::Config | Self::Trust | Self::Ca(_) | Self::Rotation | Self::Agent(_) => 1 << 20,
            Self::State(_) => 128 << 20,
            Self::Run(_) => 64 << 20,
        }
    }

    /// Whether nobody but its owner may ever read it.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Key | Self::PreviousKey => true,
            Self::Ca(name) => name.contains("key"),
            _ => false,
        }
    }
}

/// What is known of backups themselves.
const NOT_STATE: [&str; 1] = ["last-backup"];

fn is_plain(name: &str) -> bool {
    let ends = [".lock", ".tmp", "~"];
    name.len() <= MAX_NAME
        && name.starts_with(|ch: char| ch.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !ends.iter().any(|end| name.ends_with(end))
}

/// One file of a backup.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub place: Place,
    /// Permission bits.
    pub mode: u32,
    /// Name of its owner, or the number where it has no name.
    pub user: String,
    /// Name of its group, or the number.
    pub group: String,
    /// Its content.
    pub data: Zeroizing<Vec<u8>>,
}

/// A directory whose mode and owner are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Folder {
    /// `/etc/ctrl-exec`.
    Etc,
    /// `/var/lib/ctrl-exec`.
    State,
    /// The registry.
    Agents,
    /// The records of runs.
    Runs,
}

impl Folder {
    /// Every one, outer ones first.
    pub const ALL: [Self; 4] = [Self::Etc, Self::State, Self::Agents, Self::Runs];

    /// The name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etc => "config",
            Self::State => "state",
            Self::Agents => "agents",
            Self::Runs => "runs",
        }
    }

    /// The folder with this name.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim_end_matches('/');
        Self::ALL.into_iter().find(|folder| folder.name() == name)
    }
}

/// Mode and owner of a directory.
#[derive(Clone, Debug)]
pub struct FolderItem {
    /// Which one.
    pub folder: Folder,
    /// Permission bits, with the set-group-ID bit.
    pub mode: u32,
    /// Its owner, as in [`Item`].
    pub user: String,
    /// Its group.
    pub group: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for name in [
            "config/ctrl-exec.conf",
            "identity/dispatcher.key.prev",
            "trust/ca.crt",
            "ca/ca.key",
            "ca/ca.crt.old",
            "rotation/rotation.json",
            "state/revoked-serials",
            "agents/web01.json",
            "runs/0123456789abcdef.json",
        ] {
            assert_eq!(Place::parse(name).unwrap().name(), name);
        }
        for bad in [
            "",
            "/etc/passwd",
            "config/../x",
            "config/other",
            "ca/../../etc/passwd",
            "ca/x.key",
            "ca/ca.serial",
            "ca/ca./x",
            "state/.hidden",
            "state/..",
            "state/a/b",
            "state/x.lock",
            "state/last-backup",
            "state/before-restore-1.tar",
            "agents/../x.json",
            "agents/.json",
            "agents/a",
            "agents/-a.json",
            "runs/../../x.json",
            "locks/a.lock",
            "state/a\u{202e}b",
            &format!("state/{}", "a".repeat(101)),
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
        assert_eq!(Folder::parse("agents/"), Some(Folder::Agents));
        assert_eq!(Folder::parse("agents/x"), None);
    }
}
