//! Replacing the dispatcher's own certificate while agents go on trusting it (pki-and-pairing.md
//! §9).
//!
//! Agents trust a serial. The reference overwrites the old pair and then has nothing to announce
//! the new serial with; here the old pair stays beside the new one as `<cert>.prev`, `<key>.prev`
//! and makes the announcements, until the overlap is over and the old serial has been taken back.
//!
//! Order of a rotation, each step durable before the next: announced in the state; old pair copied to
//! `.prev`; new pair put in place ([`IdentityFiles::replace`](crate::ca::IdentityFiles::replace));
//! state written. No record is: which serial an agent confirmed last says what it knows
//! ([`RotationState::standing`]). [`Rotator::reconcile`] finishes whatever a crash left.

mod broadcast;
mod retire;

pub use crate::model::RotationState;
use crate::store::files::rotation;
pub use broadcast::Broadcast;
pub use retire::Retired;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::x509::keys::KeyType;

use crate::ca::{self, Authority, CaError, IdentityFiles, Owner};
use crate::model::{AgentRecord, SerialStatus};
use crate::store::files::registry::{Registry, RegistryError};

/// What agents are told about a serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Trust it as well.
    Add,
    /// Trust it no more.
    Remove,
}

impl Action {
    /// The word in `/rotate-serial`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
}

/// Which of our pairs a call is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The configured one.
    Current,
    /// The one before the last rotation.
    Previous,
}

/// One `/rotate-serial` call to be made.
#[derive(Clone, Debug)]
pub struct RotateCall {
    /// The agent, to be addressed as for a run.
    pub agent: AgentRecord,
    /// The serial it is about.
    pub serial: String,
    /// What to do with it.
    pub action: Action,
    /// Our certificate for this call.
    pub with: Pair,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// The agent answered and said no (it does not know the certificate, for example), so that
    /// another certificate may do; otherwise it was not reached.
    pub refused: bool,
    /// For people.
    pub text: String,
}

/// How agents are called; the engine implements it.
pub trait Agents {
    /// Makes all the calls, in parallel, and returns one result for each, in order. Success means
    /// that the agent answered `status` `ok`.
    fn rotate_serial(&mut self, calls: &[RotateCall]) -> Vec<Result<(), CallFailure>>;

    /// A serial of ours that agents are asked no more to forget; called before that is noted.
    ///
    /// # Errors
    /// It could not be barred; the serial is then retired again.
    fn retired(&mut self, _serial: &str) -> io::Result<()> {
        Ok(())
    }
}

/// Everything a rotation works on.
#[derive(Clone, Debug)]
pub struct Rotator {
    /// `rotation.json`.
    pub state: PathBuf,
    /// The dispatcher's pair.
    pub files: IdentityFiles,
    /// The agents.
    pub registry: Registry,
    /// Owner of a new key.
    pub owner: Option<Owner>,
    /// Kind of a new key.
    pub key: KeyType,
    /// Days of a new certificate (`cert_days`, else 825).
    pub cert_days: u32,
    /// Rotate when at most so many days are left (`cert_renewal_days`, 90).
    pub renewal_days: u32,
    /// Overlap (`cert_overlap_days`, 30).
    pub overlap_days: u32,
    /// While the CA is replaced: digests of the CA certificates with which an agent takes our present
    /// certificate. Agents with others are not told its serial, lest they be called with it.
    pub only_with_ca: Option<Vec<String>>,
}

/// How long the dispatcher's certificate still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whole days left, truncated; negative when it has expired.
    pub days_left: i64,
    /// Days at which it is rotated.
    pub threshold: i64,
}

impl Check {
    /// Whether it is time.
    pub fn is_due(self) -> bool {
        self.days_left <= self.threshold
    }
}

/// A rotation that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Canonical serial of the new certificate.
    pub new_serial: String,
    /// Canonical serial of the old one, if there was one.
    pub old_serial: Option<String>,
    /// Until when the old serial stays trusted.
    pub overlap_expires: Utc,
    /// Agents that have to be told.
    pub pending: usize,
    /// Agents that were left behind (`force`): they must be paired again.
    pub stale: Vec<String>,
}

/// Why a rotation step failed.
#[derive(Debug)]
pub enum RotationError {
    /// Certificates or the CA.
    Ca(CaError),
    /// The registry.
    Registry(RegistryError),
    /// The state file or its lock.
    Io(PathBuf, io::Error),
    /// Agents still know only the certificate before the present one; another rotation would cut
    /// them off.
    Unfinished(Vec<String>),
    /// The records of these agents cannot be read, so that they could not be told.
    Unreadable(Vec<String>),
}

impl fmt::Display for RotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca(error) => error.fmt(f),
            Self::Registry(error) => error.fmt(f),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Unreadable(names) => write!(
                f,
                "the record of {} cannot be read, so a rotation would cut it off: 'ced doctor \
                 --repair' first",
                names.join(", ")
            ),
            Self::Unfinished(names) => {
                let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
                write!(
                    f,
                    "the last rotation is not finished: {} agent(s) have not been told the present \
                     serial ({}{}); another rotation would cut them off",
                    names.len(),
                    shown.join(", "),
                    if names.len() > shown.len() {
                        ", …"
                    } else {
                        ""
                    }
                )
            }
        }
    }
}

impl std::error::Error for RotationError {}

impl From<CaError> for RotationError {
    fn from(error: CaError) -> Self {
        Self::Ca(error)
    }
}

impl From<RegistryError> for RotationError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl Rotator {
    /// The pair before the last rotation; it may not exist.
    pub fn previous(&self) -> IdentityFiles {
        self.files.suffixed(".prev")
    }

    /// The state, `None` when no rotation happened. A damaged file counts as none and is logged.
    ///
    /// # Errors
    /// The operating system's.
    pub fn status(&self, log: &Syslog) -> Result<Option<RotationState>, RotationError> {
        rotation::load(&self.state, log).map_err(|error| self.io(error))
    }

    /// Looks whether the certificate has to be rotated. A certificate whose whole life is short is
    /// due in its last third, lest a new one be due at once.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn check(&self, log: &Syslog, now: Utc) -> Result<Check, RotationError> {
        let identity = self.files.load()?;
        let facts = identity.facts();
        let third = (facts.not_after - facts.not_before) / DAY / 3;
        let check = Check {
            days_left: (facts.not_after - now.0) / DAY,
            threshold: i64::from(self.renewal_days).min(third),
        };
        let line = Line::new("cert-check")
            .field("DAYS_LEFT", check.days_left)
            .field("THRESHOLD", check.threshold);
        log.log(Level::Info, &line);
        Ok(check)
    }

    /// Makes a new pair, keeps the old one as the previous, marks all agents pending.
    ///
    /// Refuses while agents still know only the previous certificate, unless `force`: they would
    /// have to be paired again.
    ///
    /// # Errors
    /// See [`RotationError`]; before the new pair is in place nothing has changed, and after it
    /// [`reconcile`](Self::reconcile) goes on.
    pub fn rotate(
        &self,
        authority: &Authority,
        force: bool,
        log: &Syslog,
        now: Utc,
    ) -> Result<Rotated, RotationError> {
        let result = self.rotate_inner(authority, force, log, now);
        match &result {
            Ok(rotated) => {
                let line = Line::new("cert-rotated")
                    .field(
                        "OLD_SERIAL",
                        rotated.old_serial.as_deref().unwrap_or("(none)"),
                    )
                    .field("NEW_SERIAL", &rotated.new_serial)
                    .field("OVERLAP_EXPIRES", rotated.overlap_expires.iso())
                    .field("AGENTS", rotated.pending);
                log.log(Level::Info, &line);
            }
            Err(error) => {
                log.log(
                    Level::Err,
                    &Line::new("cert-rotation-fail").field("ERROR", error),
                );
            }
        }
        result
    }

    fn rotate_inner(
        &self,
        authority: &Authority,
        force: bool,
        log: &Syslog,
        now: Utc,
    ) -> Result<Rotated, RotationError> {
        let _lock = self.lock()?;
        self.reconcile_locked(log, now)?;
        let mut state = self.status(log)?.unwrap_or_default();
        let listing = self.registry.list()?;
        if !force && !listing.damaged.is_empty() {
            let names = listing.damaged.into_iter().map(|damaged| damaged.name);
            return Err(RotationError::Unreadable(names.collect()));
        }
        let unfinished = self.unfinished(&state, &listing.records)?;
        if !force && !unfinished.is_empty() {
            return Err(RotationError::Unfinished(unfinished));
        }
        let (issued, key_pem) = ca::new_identity(authority, self.key, self.cert_days, now)?;
        let old = self
            .files
            .exist()
            .then(|| ca::trust_serial(&self.files.cert))
            .transpose()?;
        let new = ctrl_exec_protocol::serial::canonical(&issued.facts.serial_hex);
        state.announce(&new, old.as_deref(), self.overlap_days, now);
        rotation::store(&state, &self.state).map_err(|error| self.io(error))?;
        if old.is_some() {
            self.files.copy_to(&self.previous())?;
        }
        self.files.replace(&issued.pem, &key_pem, self.owner)?;
        state.settle(&new);
        if let Err(error) = rotation::store(&state, &self.state) {
            // It was announced, so the next command notes what has happened.
            let line = Line::new("cert-rotation-fail").field("ERROR", self.io(error));
            log.log(Level::Warning, &line);
        }
        // They know only a certificate that is gone now: nothing here can reach them any more.
        self.registry.update_many(&unfinished, |record| {
            record.serial_status = Some(SerialStatus::Stale);
            true
        })?;
        let waiting = |record: &&AgentRecord| state.standing(record) == SerialStatus::Pending;
        let pending = listing.records.iter().filter(waiting).count();
        Ok(Rotated {
            stale: unfinished,
            new_serial: new,
            old_serial: old,
            overlap_expires: state.overlap_expires().unwrap_or(now),
            pending,
        })
    }

    /// The certificate was replaced by hand: nobody can be told of it any more. Agents that do not
    /// trust it already are marked stale, and the pair before the last rotation goes; returns the
    /// names of those agents.
    ///
    /// # Errors
    /// See [`RotationError`].
    pub fn start_over(&self, log: &Syslog, now: Utc) -> Result<Vec<String>, RotationError> {
        let _lock = self.lock()?;
        let current = ca::trust_serial(&self.files.cert)?;
        let mut stale = Vec::new();
        self.registry
            .update_many(&self.registry.names()?, |record| {
                if record.dispatcher_serial() == current {
                    return false;
                }
                record.serial_status = Some(SerialStatus::Stale);
                stale.push(record.name().to_owned());
                true
            })?;
        let mut state = self.status(log)?.unwrap_or_default();
        state.rotated(&current, None, self.overlap_days, now);
        self.previous().remove()?;
        rotation::store(&state, &self.state).map_err(|error| self.io(error))?;
        let line = Line::new("cert-replaced")
            .field("NEW_SERIAL", &current)
            .field("STALE", stale.len());
        log.log(Level::Warning, &line);
        Ok(stale)
    }

    /// Finishes or takes back what a crash left of a rotation. Cheap when there is nothing to do,
    /// and no lock is taken then.
    ///
    /// # Errors
    /// See [`RotationError`].
    pub fn reconcile(&self, log: &Syslog, now: Utc) -> Result<(), RotationError> {
        let replacing = self.files.suffixed(".new");
        if !replacing.cert.exists() && !replacing.key.exists() {
            let state = rotation::load(&self.state, log).map_err(|error| self.io(error))?;
            let announced = state.as_ref().is_some_and(RotationState::is_announced);
            let known = state.as_ref().map_or("", RotationState::current_serial);
            let noted = !self.previous().cert.exists()
                || ca::trust_serial(&self.files.cert).is_ok_and(|actual| actual == known);
            if noted && !announced {
                return Ok(());
            }
        }
        let _lock = self.lock()?;
        self.reconcile_locked(log, now)
    }

    fn reconcile_locked(&self, log: &Syslog, now: Utc) -> Result<(), RotationError> {
        self.files.recover()?;
        if !self.files.exist() {
            return Ok(());
        }
        let actual = ca::trust_serial(&self.files.cert)?;
        let mut state = self.status(log)?;
        if let Some(state) = &mut state {
            if state.settle(&actual) {
                rotation::store(state, &self.state).map_err(|error| self.io(error))?;
            }
        }
        let previous = self.previous();
        if !previous.exist() {
            return Ok(());
        }
        let before = ca::trust_serial(&previous.cert)?;
        if actual == before {
            // The copy was made, the new pair not.
            previous.remove()?;
            return Ok(());
        }
        let known = state.as_ref().map(RotationState::current_serial);
        if known == Some(actual.as_str()) || known.is_some_and(|known| known != before) {
            return Ok(());
        }
        // A rotation that was not announced: an older version made it.
        let mut state = state.unwrap_or_default();
        state.rotated(&actual, Some(&before), self.overlap_days, now);
        rotation::store(&state, &self.state).map_err(|error| self.io(error))
    }

    /// Agents that an announcement made with the previous pair would still reach, and no other.
    fn unfinished(
        &self,
        state: &RotationState,
        records: &[AgentRecord],
    ) -> Result<Vec<String>, RotationError> {
        if !self.previous().exist() {
            return Ok(Vec::new());
        }
        let before = ca::trust_serial(&self.previous().cert)?;
        let only_before = |record: &&AgentRecord| {
            state.standing(record) == SerialStatus::Pending
                && record.dispatcher_serial() == before
                && record.revoked().is_none()
        };
        let named = records.iter().filter(only_before);
        Ok(named.map(|record| record.name().to_owned()).collect())
    }

    /// Marks agents stale that were not told before the overlap ended; returns their names.
    ///
    /// # Errors
    /// The registry's.
    pub fn expire_stale(&self, log: &Syslog, now: Utc) -> Result<Vec<String>, RotationError> {
        let Some(state) = self.status(log)? else {
            return Ok(Vec::new());
        };
        let over = state.overlap_expires().is_some_and(|end| now > end);
        let lost = |record: &AgentRecord| match state.standing(record) {
            SerialStatus::Stale => record.serial_status() != SerialStatus::Stale,
            SerialStatus::Pending => over,
            SerialStatus::Current | SerialStatus::Unknown => false,
        };
        let names: Vec<String> = self
            .registry
            .list()?
            .records
            .iter()
            .filter(|record| lost(record))
            .map(|record| record.name().to_owned())
            .collect();
        let mut stale = Vec::new();
        self.registry.update_many(&names, |record| {
            if !lost(record) {
                return false;
            }
            record.serial_status = Some(SerialStatus::Stale);
            stale.push(record.name().to_owned());
            true
        })?;
        for name in &stale {
            let line = Line::new("serial-stale")
                .field("AGENT", name)
                .field("REASON", "not told before the overlap ended; pair it again");
            log.log(Level::Warning, &line);
        }
        Ok(stale)
    }

    fn lock(&self) -> Result<Lock, RotationError> {
        let path = self.state.with_extension("lock");
        let failed = |error: io::Error| RotationError::Io(path.clone(), error);
        if let Some(dir) = path.parent() {
            crate::store::files::dirs::ensure(dir).map_err(failed)?;
        }
        lock::open(&path, 0o660)
            .and_then(|file| lock::wait(file, Kind::Exclusive))
            .map_err(failed)
    }

    fn io(&self, error: io::Error) -> RotationError {
        RotationError::Io(self.state.clone(), error)
    }

    /// The directory of the state file.
    pub fn dir(&self) -> Option<&Path> {
        self.state.parent()
    }
}

#[cfg(test)]
mod tests;
