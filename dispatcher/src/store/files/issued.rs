//! Every certificate this dispatcher signed for an agent, or has seen an agent show, until it ends:
//! so that a router that does not answer any more can be barred by its name.
//!
//! Beside the registry, because a record is replaced when its agent is paired again and gone when
//! it is unpaired, while the certificates stay valid. One line each, appended and synced before the
//! certificate is given away:
//!
//! ```text
//! 4b1f…  2029-02-24T13:32:16Z  router7
//! ```

use super::revoked;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::CertFacts;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the list is, below the root.
pub const PATH: &str = "/var/lib/ctrl-exec/issued-certificates";

/// Largest file read: a million certificates.
const MAX_FILE: u64 = 128 << 20;
const MODE: u32 = 0o644;

/// One certificate of an agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedCert {
    /// Its serial, in the form of [`revoked::normal`].
    pub serial: String,
    /// End of its validity.
    pub until: Utc,
    /// Registry name of the agent.
    pub name: String,
}

impl IssuedCert {
    /// The certificate with these facts, of the agent `name`.
    pub fn new(facts: &CertFacts, name: &str) -> Self {
        Self {
            serial: revoked::normal(&facts.serial_hex),
            until: Utc(facts.not_after),
            name: name.to_owned(),
        }
    }

    /// A line, which needs no escapes: name and serial were checked.
    pub fn line(&self) -> String {
        format!("{} {} {}\n", self.serial, self.until.iso(), self.name)
    }

    /// Reads a line; `None` for what is no entry.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (serial, until, name) = (words.next()?, words.next()?, words.next()?);
        let good = words.next().is_none()
            && serial.bytes().all(|b| b.is_ascii_hexdigit())
            && names::is_agent_name(name);
        good.then(|| Self {
            serial: revoked::normal(serial),
            until: Utc::parse_iso(until).unwrap_or(Utc(i64::MAX)),
            name: name.to_owned(),
        })
    }
}

/// The list.
#[derive(Clone, Debug)]
pub struct Issued {
    path: PathBuf,
}

/// Why the list could not be read or written.
#[derive(Debug)]
pub struct IssuedError {
    doing: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for IssuedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, path, error } = self;
        write!(f, "cannot {doing} {}: {error}", path.display())?;
        if error.kind() == io::ErrorKind::PermissionDenied {
            f.write_str(" (try sudo, or join the group that owns it)")?;
        }
        Ok(())
    }
}

impl std::error::Error for IssuedError {}

impl Issued {
    /// The list of this dispatcher; nothing is touched yet.
    pub fn at(root: &Root) -> Self {
        Self::new(root.path(PATH))
    }

    /// The list at `path`; nothing is touched yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes certificates, durably, unless they are noted. To be called before a certificate is
    /// given away.
    ///
    /// # Errors
    /// The operating system's, or a name that no agent can have.
    pub fn add(&self, certs: &[IssuedCert]) -> Result<(), IssuedError> {
        if certs.is_empty() {
            return Ok(());
        }
        if certs.iter().any(|cert| !names::is_agent_name(&cert.name)) {
            return Err(self.failed("write", io::ErrorKind::InvalidInput.into()));
        }
        let _lock = self.lock()?;
        let text = self.text()?;
        let known: BTreeSet<(String, String)> = text
            .lines()
            .filter_map(IssuedCert::parse)
            .map(|cert| (cert.serial, cert.name))
            .collect();
        let mut more = String::new();
        // What a crash left of a line must not swallow the next one.
        if !text.is_empty() && !text.ends_with('\n') {
            more.push('\n');
        }
        let news = certs
            .iter()
            .filter(|cert| !known.contains(&(cert.serial.clone(), cert.name.clone())));
        let before = more.len();
        more.extend(news.map(IssuedCert::line));
        if more.len() == before {
            return Ok(());
        }
        let made = text.is_empty() && !self.path.exists();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(&self.path)
            .map_err(|error| self.failed("write", error))?;
        file.write_all(more.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| self.failed("write", error))?;
        match self.path.parent() {
            Some(dir) if made => {
                durable::sync_dir(dir).map_err(|error| self.failed("write", error))
            }
            _ => Ok(()),
        }
    }

    /// All that have not ended at `now`. Lines that are no entry are left out, as a crash may have
    /// cut the last one.
    ///
    /// # Errors
    /// The operating system's; a missing file is an empty list.
    pub fn all(&self, now: Utc) -> Result<Vec<IssuedCert>, IssuedError> {
        let text = self.text()?;
        let certs = text.lines().filter_map(IssuedCert::parse);
        Ok(certs.filter(|cert| cert.until.0 >= now.0).collect())
    }

    /// Those of one agent that have not ended.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn of(&self, name: &str, now: Utc) -> Result<Vec<IssuedCert>, IssuedError> {
        let mut certs = self.all(now)?;
        certs.retain(|cert| cert.name == name);
        Ok(certs)
    }

    /// The agent has another registry name now.
    ///
    /// # Errors
    /// The operating system's.
    pub fn rename(&self, old: &str, new: &str) -> Result<(), IssuedError> {
        self.rewrite(|mut cert| {
            if cert.name == old {
                new.clone_into(&mut cert.name);
            }
            Some(cert)
        })
    }

    /// Forgets what has ended.
    ///
    /// # Errors
    /// The operating system's.
    pub fn prune(&self, now: Utc) -> Result<(), IssuedError> {
        self.rewrite(|cert| (cert.until.0 >= now.0).then_some(cert))
    }

    fn rewrite(
        &self,
        change: impl Fn(IssuedCert) -> Option<IssuedCert>,
    ) -> Result<(), IssuedError> {
        if !self.path.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let text = self.text()?;
        let kept: String = text
            .lines()
            .filter_map(|line| match IssuedCert::parse(line) {
                Some(cert) => change(cert).map(|cert| cert.line()),
                // Not ours to lose: it may be of a later version.
                None => Some(format!("{line}\n")),
            })
            .collect();
        if kept == text {
            return Ok(());
        }
        durable::write(&self.path, kept.as_bytes(), &Perm::mode(MODE))
            .map_err(|error| self.failed("write", error))
    }

    fn text(&self) -> Result<String, IssuedError> {
        Bounded::new(MAX_FILE)
            .no_follow()
            .optional(&self.path)
            .map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
            .map_err(|error| self.failed("read", error))
    }

    fn lock(&self) -> Result<Lock, IssuedError> {
        if let Some(dir) = self.path.parent() {
            super::dirs::ensure(dir).map_err(|error| self.failed("write", error))?;
        }
        let path = self.path.with_extension("lock");
        lock::open(&path, 0o660)
            .and_then(|file| lock::wait(file, Kind::Exclusive))
            .map_err(|error| IssuedError {
                doing: "lock",
                path,
                error,
            })
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> IssuedError {
        IssuedError {
            doing,
            path: self.path.clone(),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn cert(serial: &str, until: i64, name: &str) -> IssuedCert {
        IssuedCert {
            serial: serial.into(),
            until: Utc(until),
            name: name.into(),
        }
    }

    #[test]
    fn kept_until_they_end_whatever_becomes_of_the_record() {
        let dir = TempDir::new();
        let issued = Issued::new(dir.path().join("issued"));
        let now = Utc(1_800_000_000);
        assert_eq!(issued.all(now).unwrap(), []);
        let (a, b, c) = (
            cert("4a", now.0 + 10, "r1"),
            cert("4b", now.0 + 1_000, "r1"),
            cert("4c", now.0 + 1_000, "r2"),
        );
        issued.add(&[a.clone(), b.clone()]).unwrap();
        issued.add(&[c.clone(), a.clone()]).unwrap();
        assert_eq!(issued.all(now).unwrap(), [a, b.clone(), c]);
        assert_eq!(issued.of("r1", Utc(now.0 + 11)).unwrap(), [b]);
        issued.rename("r1", "attic").unwrap();
        assert_eq!(issued.of("r1", now).unwrap(), []);
        assert_eq!(issued.of("attic", now).unwrap().len(), 2);
        issued.prune(Utc(now.0 + 11)).unwrap();
        assert_eq!(issued.all(now).unwrap().len(), 2);
        assert!(issued.add(&[cert("4d", 1, "../x")]).is_err());
        assert!(issued.add(&[cert("4d", 1, "a b")]).is_err());
    }

    #[test]
    fn a_line_that_a_crash_cut_swallows_nothing() {
        let dir = TempDir::new();
        let issued = Issued::new(dir.path().join("issued"));
        std::fs::write(issued.path(), "4a 2033-01-01T00:00:00Z r1\n4b 2033-01-").unwrap();
        issued.add(&[cert("4c", 2_000_000_000, "r2")]).unwrap();
        let now = Utc(1_800_000_000);
        let serials: Vec<String> = issued
            .all(now)
            .unwrap()
            .into_iter()
            .map(|c| c.serial)
            .collect();
        assert_eq!(serials, ["4a", "4c"]);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = TempDir::new();
        let issued = Issued::new(dir.path().join("issued"));
        let target = dir.path().join("target");
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, issued.path()).unwrap();
        assert!(issued.add(&[cert("4c", 2_000_000_000, "r2")]).is_err());
        assert!(std::fs::read(&target).unwrap().is_empty());
        std::os::unix::fs::symlink(&target, dir.path().join("other.lock")).unwrap();
        let other = Issued::new(dir.path().join("other"));
        assert!(other.add(&[cert("4c", 2_000_000_000, "r2")]).is_err());
    }
}
