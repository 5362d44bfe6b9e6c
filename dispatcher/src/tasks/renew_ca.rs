//! `renew-ca`: the CA's certificate made anew with the same key, here and on the agents.

use super::dispatcher::Dispatcher;
use super::handover::Standing;
use super::ping::NO_CA;
use super::renew;
use crate::ca::CaDir;
use crate::model::{AgentRecord, AppError};
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::pem;
use std::collections::BTreeMap;
use std::path::Path;

/// Whether an agent has the CA certificates that it is to have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Has {
    /// It has.
    Yes,
    /// It has others.
    No(String),
    /// It is of release 0.12.3, or does not tell for another reason; it takes none.
    Never,
    /// Nothing has been heard of it yet.
    Unknown,
}

/// What an agent has, by name.
pub type Holders = BTreeMap<String, Has>;

/// Makes the CA's certificate anew, here; agents get it with the next ping ([`survey`](super::handover::survey)). `None` when it lasts as long
/// already. What a crash interrupted is finished.
///
/// # Errors
/// No CA key, a CA that is being replaced, or the operating system's.
pub fn reissue(dispatcher: &Dispatcher, days: u32, now: Utc) -> Result<Option<String>, AppError> {
    let ca = CaDir::new(dispatcher.config.ca_dir());
    let authority = renew::authority(&dispatcher.config)?;
    if ca.next().dir().exists() {
        return Err(AppError::usage(
            "the CA is being replaced: 'replace-ca' first, to the end".to_owned(),
        ));
    }
    let own = pem::encode("CERTIFICATE", authority.der());
    // Handed over, but not in its place here: a crash.
    let waiting = read(&ca.handover())?.filter(|list| {
        cert::facts_from_pem(list).is_ok_and(|facts| {
            facts.spki_der == authority.facts().spki_der
                && facts.subject_der == authority.facts().subject_der
                && facts.not_after > authority.facts().not_after
        })
    });
    let list = match waiting {
        Some(list) => list,
        None => match authority.reissue(days, now)? {
            Some(new) => exchanged(authority.pem(), &own, &new)?,
            None => return Ok(None),
        },
    };
    // Agents may have it before it is in its place here: it is the same CA.
    write(&ca.handover(), &list)?;
    write(&ca.cert(), &list)?;
    let verifies = dispatcher.config.ca();
    if verifies != ca.cert() {
        let before = read(&verifies)?.unwrap_or_default();
        let first = cert::from_pem(&list).map_err(|error| AppError::system(error.to_string()))?;
        write(
            &verifies,
            &exchanged(&before, &own, &pem::encode("CERTIFICATE", &first))?,
        )?;
    }
    let facts = cert::facts_from_pem(&list).map_err(|error| AppError::system(error.to_string()))?;
    let end = Utc(facts.not_after).openssl();
    let line = Line::new("ca-renewed").field("EXPIRY", &end);
    dispatcher.log.log(Level::Warning, &line);
    Ok(Some(end))
}

/// Who has what, as the registry knows it.
///
/// # Errors
/// The registry's, and files.
pub fn holders(dispatcher: &Dispatcher) -> Result<Holders, AppError> {
    let standing = Standing::load(dispatcher)?;
    let records = dispatcher.agents().list()?.records;
    let named = records.iter().filter(|record| record.revoked().is_none());
    Ok(named
        .map(|record| (record.name().to_owned(), has(&standing, record)))
        .collect())
}

/// What an agent has, by its record.
pub fn has(standing: &Standing, record: &AgentRecord) -> Has {
    match record.ca_digest() {
        _ if record.is_perl() => Has::Never,
        "" => Has::Unknown,
        NO_CA => Has::Never,
        digest if standing.is_good(digest) => Has::Yes,
        digest => Has::No(digest.to_owned()),
    }
}

/// A text of CA certificates in which `old` (PEM) gives way to `new`; the others stay.
fn exchanged(text: &str, old: &str, new: &str) -> Result<String, AppError> {
    let fault = |error: pem::PemError| AppError::system(error.to_string());
    let mut out = new.to_owned();
    for der in pem::certificates(text).map_err(fault)? {
        let one = pem::encode("CERTIFICATE", &der);
        if one != old && one != new {
            out.push_str(&one);
        }
    }
    Ok(out)
}

pub(super) fn read(path: &Path) -> Result<Option<String>, AppError> {
    ctrl_exec_host::bounded::Bounded::new(65_536)
        .optional_text(path)
        .map_err(|error| AppError::system(format!("cannot read {}: {error}", path.display())))
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), AppError> {
    durable::write(path, text.as_bytes(), &Perm::mode(0o644))
        .map_err(|error| AppError::system(format!("cannot write {error} (try sudo)")))
}
