//! `replace-ca`: a new CA in place of the old one, without pairing agents of ours again.
//!
//! Three phases. Agents are handed the new CA's certificate, vouched for by the old CA, and trust
//! both. Then the new CA signs: this dispatcher's certificate is rotated, and those of agents are
//! renewed. At last agents and dispatcher drop the old CA.
//!
//! How far it is stands in the files alone: `next/` is there while it goes on, and the new CA's key
//! lies in `ca.key` from the second phase on. Each step can be repeated, so that whatever was
//! interrupted goes on with the next call.

use super::dispatcher::Dispatcher;
use super::handover::{self, Survey};
use super::renew_ca::{self, Has, read, write};
use super::{renew, revocation, rotate};
use crate::ca::{self, Authority, CaDir, CaOptions, read_text};
use crate::model::{AgentRecord, AppError, SerialStatus};
use crate::trust;
use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::handover::admit;
use ctrl_exec_protocol::x509::keys::KeyType;
use ctrl_exec_protocol::x509::pem;
use std::io;
use std::os::unix::fs::DirBuilderExt;

/// How far it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// The old CA signs; agents are handed the new one.
    HandingOver,
    /// The new CA signs; certificates are exchanged.
    Exchanging,
    /// The old CA is dropped.
    Finished,
}

/// Which certificate an agent shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shows {
    /// One of the new CA.
    New,
    /// One of the old CA; one of the new waits for its adoption.
    Staged,
    /// One of the old CA.
    Old,
    /// It did not answer.
    Unknown,
}

/// How far one agent is.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Whether it trusts the new CA.
    pub has: Has,
    /// Which certificate it shows.
    pub shows: Shows,
    /// Whether it knows the serial of this dispatcher's certificate.
    pub knows_us: bool,
    /// What went wrong with it, or empty.
    pub error: String,
}

impl Standing {
    /// Whether nothing is lost for it when the old CA is dropped.
    pub fn is_ready(&self) -> bool {
        self.has == Has::Yes && self.shows == Shows::New && self.knows_us
    }
}

/// How far it is, and what each agent has.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The phase reached.
    pub phase: Phase,
    /// Name of the new CA.
    pub name: String,
    /// The agents.
    pub agents: Vec<Standing>,
    /// Agents that were left behind: they must be paired again.
    pub left: Vec<String>,
}

/// Whether a replacement is under way.
pub fn is_under_way(dispatcher: &Dispatcher) -> bool {
    CaDir::new(dispatcher.config.ca_dir()).next().dir().exists()
}

/// Goes on as far as it can: begins, hands over, exchanges. With `force` also where agents lack the
/// new CA, which are left behind unless they are reached before the end.
///
/// # Errors
/// No CA key, or files; agents that fail are in the report.
pub fn advance(
    dispatcher: &Dispatcher,
    days: u32,
    force: bool,
    now: Utc,
) -> Result<Progress, AppError> {
    let ca = CaDir::new(dispatcher.config.ca_dir());
    let authority = renew::authority(&dispatcher.config)?;
    let _lock = hold(&ca)?;
    let next = prepare(&ca, &authority, days, now)?;
    if !is_same(&authority, &next) {
        begin(dispatcher, &ca, &authority, &next)?;
        let survey = handover::survey(dispatcher)?;
        let agents = standings(dispatcher, &next, &survey)?;
        let lack = |one: &Standing| matches!(one.has, Has::No(_) | Has::Unknown);
        if !force && agents.iter().any(lack) {
            return Ok(progress(Phase::HandingOver, &next, agents));
        }
        switch(dispatcher, &ca, &authority, &next)?;
    }
    let own = trust::identity_files(&dispatcher.config).load()?;
    if own.facts().issuer_der != next.facts().subject_der {
        rotate::rotate(dispatcher, force)?;
    }
    revocation::refresh(dispatcher, now)?;
    let survey = handover::survey(dispatcher)?;
    let told = rotate::broadcast(dispatcher)?;
    let mut agents = standings(dispatcher, &next, &survey)?;
    for (name, error) in told.failed {
        if let Some(agent) = agents.iter_mut().find(|one| one.name == name) {
            if agent.error.is_empty() {
                agent.error = error;
            }
        }
    }
    Ok(progress(Phase::Exchanging, &next, agents))
}

/// Drops the old CA, here and on the agents. Without `force` only when nobody is left behind.
///
/// # Errors
/// Nothing to finish, no CA key, or files; agents that fail are in the report.
pub fn finish(dispatcher: &Dispatcher, force: bool, now: Utc) -> Result<Progress, AppError> {
    let ca = CaDir::new(dispatcher.config.ca_dir());
    if !ca.next().cert().exists() {
        return Err(AppError::usage("no CA is being replaced here".to_owned()));
    }
    let authority = renew::authority(&dispatcher.config)?;
    let _lock = hold(&ca)?;
    let next = Authority::load(&ca.next())?;
    if !is_same(&authority, &next) {
        return Err(AppError::usage(
            "the new CA does not sign yet: 'replace-ca' until every agent has it (or --force)"
                .to_owned(),
        ));
    }
    let survey = handover::survey(dispatcher)?;
    let agents = standings(dispatcher, &next, &survey)?;
    let behind = agents.iter().filter(|one| !one.is_ready());
    let left: Vec<String> = behind.map(|one| one.name.clone()).collect();
    if !force && !left.is_empty() {
        return Ok(progress(Phase::Exchanging, &next, agents));
    }
    let vouched = read(&vouched(&ca))?.unwrap_or_default();
    write(&ca.handover(), &format!("{}{vouched}", next.pem()))?;
    revocation::refresh(dispatcher, now)?;
    // From here on agents drop it, each when it is reached.
    let survey = handover::survey(dispatcher)?;
    let agents = standings(dispatcher, &next, &survey)?;
    write(&ca.cert(), next.pem())?;
    write(&dispatcher.config.ca(), next.pem())?;
    dispatcher
        .agents()
        .update_many(&left, |record: &mut AgentRecord| {
            record.serial_status = Some(SerialStatus::Stale);
            true
        })?;
    rotate::rotator(dispatcher)?.previous().remove()?;
    std::fs::remove_dir_all(ca.next().dir()).map_err(|error| {
        AppError::system(format!(
            "cannot remove {}: {error}",
            ca.next().dir().display()
        ))
    })?;
    log(dispatcher, "ca-replaced", &next);
    Ok(Progress {
        left,
        ..progress(Phase::Finished, &next, agents)
    })
}

/// How far it is, as files and registry tell; nothing is changed and nobody called.
///
/// # Errors
/// Nothing under way, or files.
pub fn status(dispatcher: &Dispatcher) -> Result<Progress, AppError> {
    let ca = CaDir::new(dispatcher.config.ca_dir());
    if !ca.next().cert().exists() {
        return Err(AppError::usage("no CA is being replaced here".to_owned()));
    }
    let next = Authority::load(&ca.next())?;
    let phase = match renew::authority(&dispatcher.config) {
        Ok(authority) if is_same(&authority, &next) => Phase::Exchanging,
        _ => Phase::HandingOver,
    };
    let agents = standings(dispatcher, &next, &Survey::default())?;
    Ok(progress(phase, &next, agents))
}

fn progress(phase: Phase, next: &Authority, agents: Vec<Standing>) -> Progress {
    Progress {
        phase,
        name: next.facts().subject_cn.clone().unwrap_or_default(),
        agents,
        left: Vec::new(),
    }
}

/// The new CA: as it is, or made now.
fn prepare(ca: &CaDir, authority: &Authority, days: u32, now: Utc) -> Result<Authority, AppError> {
    let next = ca.next();
    if next.cert().exists() {
        return Ok(Authority::load(&next)?);
    }
    private_dir(&next)?;
    let options = CaOptions {
        cn: successor(authority.facts().subject_cn.as_deref().unwrap_or_default()),
        days,
        key: KeyType::EcdsaP256,
    };
    Ok(ca::setup_ca(&next, &options, now)?)
}

/// Both are trusted here, and agents are to trust both.
fn begin(
    dispatcher: &Dispatcher,
    ca: &CaDir,
    authority: &Authority,
    next: &Authority,
) -> Result<(), AppError> {
    let old = without(authority.pem(), next)?;
    let path = vouched(ca);
    // Made once: another one would be another list to every agent.
    let good = |vouched: &String| admit(&old, &format!("{}{vouched}", next.pem())).is_ok();
    let vouched = match read(&path)?.filter(good) {
        Some(vouched) => vouched,
        None => {
            let vouched = authority.vouch_for(next)?;
            write(&path, &vouched)?;
            vouched
        }
    };
    write(&ca.cert(), &format!("{old}{}", next.pem()))?;
    let verifies = dispatcher.config.ca();
    if verifies != ca.cert() {
        let own = without(&read(&verifies)?.unwrap_or_default(), next)?;
        write(&verifies, &format!("{own}{}", next.pem()))?;
    }
    write(&ca.handover(), &format!("{old}{}{vouched}", next.pem()))
}

/// The new CA signs from here on; the old one is kept aside.
fn switch(
    dispatcher: &Dispatcher,
    ca: &CaDir,
    authority: &Authority,
    next: &Authority,
) -> Result<(), AppError> {
    private_dir(&ca.old())?;
    ca.pair().copy_to(&ca.old().pair())?;
    let old = without(authority.pem(), next)?;
    let key = read_text(&ca.next().key())?;
    ca.pair()
        .replace(&format!("{}{old}", next.pem()), &key, None)?;
    log(dispatcher, "ca-switched", next);
    Ok(())
}

/// How far each agent is: what the registry knows, and what a survey has just seen.
fn standings(
    dispatcher: &Dispatcher,
    next: &Authority,
    survey: &Survey,
) -> Result<Vec<Standing>, AppError> {
    let wanted = handover::Standing::load(dispatcher)?;
    let records = dispatcher.agents().list()?.records;
    let named = records.iter().filter(|record| record.revoked().is_none());
    Ok(named
        .map(|record| {
            let name = record.name();
            let seen = survey
                .followed
                .answered
                .iter()
                .find(|one| one.target.name == name);
            let renewed = survey.followed.renewed.iter().find(|one| one.name == name);
            let staged = seen.is_some_and(|one| one.staged)
                || renewed.is_some_and(|one| one.result.is_ok())
                || (seen.is_none() && !record.staged_expiry().is_empty());
            let shown = seen.and_then(|one| one.shown.as_ref());
            let shows = match shown {
                Some(shown) if shown.issuer_der == next.facts().subject_der => Shows::New,
                Some(_) if staged => Shows::Staged,
                Some(_) => Shows::Old,
                None => Shows::Unknown,
            };
            Standing {
                name: name.to_owned(),
                has: renew_ca::has(&wanted, record),
                shows,
                knows_us: record.serial_status() == SerialStatus::Current,
                error: survey.error_of(name).unwrap_or_default().to_owned(),
            }
        })
        .collect())
}

fn is_same(one: &Authority, other: &Authority) -> bool {
    one.facts().spki_der == other.facts().spki_der
}

/// The certificates of a text but for those of this CA.
fn without(text: &str, next: &Authority) -> Result<String, AppError> {
    let fault = |error: &dyn std::fmt::Display| AppError::system(error.to_string());
    let mut out = String::new();
    for der in pem::certificates(text).map_err(|error| fault(&error))? {
        let facts = cert::facts(&der).map_err(|error| fault(&error))?;
        if facts.spki_der != next.facts().spki_der {
            out.push_str(&pem::encode("CERTIFICATE", &der));
        }
    }
    Ok(out)
}

/// The old CA's certificate of the new one.
fn vouched(ca: &CaDir) -> std::path::PathBuf {
    ca.next().dir().join("vouched.crt")
}

/// The name of the CA that follows one of this name: counted on.
fn successor(name: &str) -> String {
    let name = name.trim();
    let (base, number) = match name.rsplit_once(' ') {
        Some((base, last)) => match last.parse::<u32>() {
            Ok(number) => (base, number),
            Err(_) => (name, 1),
        },
        None => (name, 1),
    };
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    let base: String = base.chars().filter(|c| good(*c)).collect();
    let base = if base.is_empty() {
        "ctrl-exec CA"
    } else {
        &base
    };
    format!("{base} {}", number.saturating_add(1))
}

fn private_dir(ca: &CaDir) -> Result<(), AppError> {
    match std::fs::DirBuilder::new().mode(0o700).create(ca.dir()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(AppError::system(
            format!("cannot create {}: {error} (try sudo)", ca.dir().display()),
        )),
        _ => Ok(()),
    }
}

/// One replacement at a time.
fn hold(ca: &CaDir) -> Result<Lock, AppError> {
    let path = ca.dir().join(".replace.lock");
    let held = lock::open(&path, 0o600).and_then(|file| lock::attempt(file, Kind::Exclusive));
    match held {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(AppError::usage(
            "another 'replace-ca' is at work".to_owned(),
        )),
        Err(error) => Err(AppError::system(format!(
            "cannot lock {}: {error} (try sudo)",
            path.display()
        ))),
    }
}

fn log(dispatcher: &Dispatcher, action: &'static str, next: &Authority) {
    let name = next.facts().subject_cn.as_deref().unwrap_or_default();
    let line = Line::new(action).field("CA", name);
    dispatcher.log.log(Level::Warning, &line);
}

#[cfg(test)]
mod tests {
    use super::successor;

    #[test]
    fn cas_are_counted() {
        for (name, next) in [
            ("ctrl-exec CA", "ctrl-exec CA 2"),
            ("ctrl-exec CA 2", "ctrl-exec CA 3"),
            ("fleet", "fleet 2"),
            ("", "ctrl-exec CA 2"),
            ("7", "7 2"),
            ("a/b", "ab 2"),
        ] {
            assert_eq!(successor(name), next, "{name}");
        }
    }
}
