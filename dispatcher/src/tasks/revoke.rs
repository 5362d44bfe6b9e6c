//! Barring an agent's certificates, and taking that back. Everything needed is here already: a
//! router that was stolen does not answer.

use crate::model::AgentRecord;
use crate::store::files::issued::{Issued, IssuedCert, IssuedError};
use crate::store::files::registry::{Registry, RegistryError};
use crate::store::files::revoked;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::CertFacts;
use std::collections::HashSet;
use std::fmt;
use std::io;

/// What barring works on.
#[derive(Debug)]
pub struct Barring<'a> {
    /// Where the revocation list is.
    pub root: &'a Root,
    /// The agents.
    pub registry: &'a Registry,
    /// The certificates they were given.
    pub issued: &'a Issued,
}

/// An agent whose certificates are barred.
#[derive(Clone, Debug)]
pub struct Barred {
    /// The certificates, all of them, with the ends that are known.
    pub certs: Vec<IssuedCert>,
    /// How many of them were not barred before.
    pub new: usize,
    /// Whether a record of the agent is there (and marked).
    pub registered: bool,
}

/// Why nothing was barred.
#[derive(Debug)]
pub enum RevokeError {
    /// No serial of that agent is known, so nothing can be barred.
    NoSerial(String),
    /// The registry.
    Registry(RegistryError),
    /// The list of issued certificates.
    Issued(IssuedError),
    /// The revocation list.
    List(std::path::PathBuf, io::Error),
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSerial(name) => write!(
                f,
                "no certificate of '{name}' is known here (it was paired before they were kept, \
                 and does not answer), so nothing was barred and the record stays.\nIf you can \
                 find the serial (on the agent: openssl x509 -noout -serial -in \
                 /etc/ctrl-exec-agent/agent.crt): ced revoke --serial SERIAL"
            ),
            Self::Registry(error) => error.fmt(f),
            Self::Issued(error) => error.fmt(f),
            Self::List(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for RevokeError {}

impl From<RegistryError> for RevokeError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<IssuedError> for RevokeError {
    fn from(error: IssuedError) -> Self {
        Self::Issued(error)
    }
}

impl Barring<'_> {
    /// Every certificate of an agent that may still be shown, as far as it is known here.
    ///
    /// # Errors
    /// The registry's, but for a record that cannot be read; the list's.
    pub fn known(&self, name: &str, now: Utc) -> Result<Vec<IssuedCert>, RevokeError> {
        let mut certs = self.issued.of(name, now)?;
        match self.registry.load(name) {
            Ok(Some(record)) => {
                if let Some(serial) = revoked::read(record.cert_serial()) {
                    if !certs.iter().any(|cert| cert.serial == serial) {
                        certs.push(IssuedCert {
                            serial,
                            until: Utc::parse_openssl(record.expiry()).unwrap_or(Utc(i64::MAX)),
                            name: name.to_owned(),
                        });
                    }
                }
            }
            Ok(None) | Err(RegistryError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(certs)
    }

    /// Bars every certificate of an agent and marks its record, which stays. `ask` is the last
    /// resort where none is known: it asks the agent for the one it shows.
    ///
    /// # Errors
    /// No such agent; no serial known; the files'.
    pub fn revoke(
        &self,
        name: &str,
        now: Utc,
        ask: impl FnOnce(&AgentRecord) -> Option<CertFacts>,
    ) -> Result<Barred, RevokeError> {
        let mut certs = self.known(name, now)?;
        let record = match self.registry.load(name) {
            Ok(Some(record)) => Some(record),
            Ok(None) if certs.is_empty() => {
                return Err(RegistryError::Unknown(name.to_owned()).into());
            }
            Ok(None) | Err(RegistryError::Damaged(_)) => None,
            Err(error) => return Err(error.into()),
        };
        if certs.is_empty() {
            if let Some(facts) = record.as_ref().and_then(ask) {
                certs.push(IssuedCert::new(&facts, name));
                self.issued.add(&certs)?;
            }
        }
        if certs.is_empty() {
            return Err(RevokeError::NoSerial(name.to_owned()));
        }
        // Barred first: a crash in between leaves an agent that is refused and not marked, not one
        // that is marked and accepted.
        let new = self.bar(&certs, &format!("{name} revoked {}", now.iso()))?;
        let mark = |record: &mut AgentRecord| {
            if record.revoked().is_none() {
                record.revoked = Some(now.iso());
            }
        };
        let registered = match self.registry.update(name, mark) {
            Ok(_) => true,
            Err(RegistryError::Unknown(_)) => false,
            Err(RegistryError::Damaged(_)) => self.registry.repair(name, now, mark)?.is_some(),
            Err(error) => return Err(error.into()),
        };
        Ok(Barred {
            certs,
            new,
            registered,
        })
    }

    /// Bars these certificates; returns how many were not before.
    ///
    /// # Errors
    /// The list's.
    pub fn bar(&self, certs: &[IssuedCert], comment: &str) -> Result<usize, RevokeError> {
        let serials: Vec<String> = certs.iter().map(|cert| cert.serial.clone()).collect();
        revoked::add(self.root, &serials, comment).map_err(|error| self.list_error(error))
    }

    /// Takes a revocation of an agent back; certificates that were barred because the agent was
    /// replaced stay so. Returns the serials that are accepted again.
    ///
    /// # Errors
    /// No such agent or nothing of it barred; the files'.
    pub fn unrevoke(&self, name: &str) -> Result<Vec<String>, RevokeError> {
        let of_name = format!("{name} revoked ");
        let serials: HashSet<String> = revoked::entries(self.root)
            .map_err(|error| self.list_error(error))?
            .into_iter()
            // Lists of earlier versions have the bare name.
            .filter(|entry| entry.comment.starts_with(&of_name) || entry.comment == name)
            .map(|entry| entry.serial)
            .collect();
        let marked = self
            .registry
            .load(name)?
            .is_some_and(|record| record.revoked().is_some());
        if serials.is_empty() && !marked {
            return Err(RegistryError::Unknown(name.to_owned()).into());
        }
        // The mark goes first: a crash in between leaves certificates barred.
        if marked {
            self.registry.update(name, |record| {
                record.revoked = None;
            })?;
        }
        self.unbar(&serials)
    }

    /// Takes serials off the list; returns those that were on it.
    ///
    /// # Errors
    /// The list's.
    pub fn unbar(&self, serials: &HashSet<String>) -> Result<Vec<String>, RevokeError> {
        revoked::remove(self.root, serials).map_err(|error| self.list_error(error))
    }

    fn list_error(&self, error: io::Error) -> RevokeError {
        RevokeError::List(revoked::path(self.root), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn cert(serial: &str, name: &str) -> IssuedCert {
        IssuedCert {
            serial: serial.into(),
            until: Utc(2_000_000_000),
            name: name.into(),
        }
    }

    #[test]
    fn every_certificate_of_a_dead_router_is_barred() {
        let dir = TempDir::new();
        let root = Root::at(dir.path());
        let registry = Registry::new(dir.path().join("agents"));
        let issued = Issued::at(&root);
        let barring = Barring {
            root: &root,
            registry: &registry,
            issued: &issued,
        };
        let now = Utc(1_800_000_000);
        let nobody = |_: &AgentRecord| None;
        let mut record = AgentRecord::new("r1");
        record.cert_serial = Some("4C:01".into());
        registry.register(&record).unwrap();
        registry.register(&AgentRecord::new("r2")).unwrap();
        let mut ended = cert("4a9", "r1");
        ended.until = Utc(now.0 - 1);
        issued
            .add(&[
                cert("4a1", "r1"),
                cert("4a2", "r1"),
                ended,
                cert("4b1", "r3"),
            ])
            .unwrap();

        let barred = barring.revoke("r1", now, nobody).unwrap();
        assert_eq!((barred.new, barred.registered), (3, true));
        let listed = revoked::load(&root).unwrap();
        assert_eq!(
            listed,
            HashSet::from(["4a1".into(), "4a2".into(), "4c01".into()])
        );
        let record = registry.require("r1").unwrap();
        assert_eq!(record.revoked(), Some(&*now.iso()));
        assert_eq!(barring.revoke("r1", now, nobody).unwrap().new, 0);

        // Nothing known: nothing changes, and that is an error.
        let error = barring.revoke("r2", now, nobody).unwrap_err();
        assert!(matches!(error, RevokeError::NoSerial(_)), "{error}");
        assert_eq!(registry.require("r2").unwrap().revoked(), None);
        // Unpaired long ago: barred all the same.
        let barred = barring.revoke("r3", now, nobody).unwrap();
        assert_eq!((barred.new, barred.registered), (1, false));
        assert!(barring.revoke("r4", now, nobody).is_err());

        // Taken back, but not what was barred for another reason.
        barring
            .bar(&[cert("4a0", "r1")], "r1 replaced 2026")
            .unwrap();
        let back = barring.unrevoke("r1").unwrap();
        assert_eq!(back.len(), 3);
        assert_eq!(registry.require("r1").unwrap().revoked(), None);
        assert!(revoked::load(&root).unwrap().contains("4a0"));
        assert!(barring.unrevoke("r1").is_err());
    }

    #[test]
    fn an_agent_that_ruined_its_record_is_barred() {
        let dir = TempDir::new();
        let root = Root::at(dir.path());
        let registry = Registry::new(dir.path().join("agents"));
        let issued = Issued::at(&root);
        registry.register(&AgentRecord::new("r1")).unwrap();
        std::fs::write(
            registry.dir().join("r1.json"),
            r#"{"ip":"10.0.0.9","port":7600,"x"#,
        )
        .unwrap();
        issued.add(&[cert("4a1", "r1")]).unwrap();
        let barring = Barring {
            root: &root,
            registry: &registry,
            issued: &issued,
        };
        let now = Utc(1_800_000_000);
        let barred = barring.revoke("r1", now, |_| None).unwrap();
        assert_eq!((barred.new, barred.registered), (1, true));
        let record = registry.require("r1").unwrap();
        assert_eq!((record.ip(), record.port()), ("10.0.0.9", 7600));
        assert!(record.revoked().is_some());
    }
}
