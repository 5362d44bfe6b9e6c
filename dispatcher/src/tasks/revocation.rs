//! The list of revoked certificates that agents are handed: signed by the CA, numbered, kept beside
//! the dispatcher's own.
//!
//! An agent obeys whom its trust map names, and no agent's certificate is in a trust map. So the
//! certificates of lost agents are not on the list, which every router would have to write to its
//! flash each time; it holds those of dispatchers, and whatever was revoked by its serial.

use super::dispatcher::Dispatcher;
use super::renew;
use crate::ca::{Authority, CaDir};
use crate::model::AppError;
use crate::store::files::revoked::{self, Entry};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::lock::{self, Kind};
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::crl::{Crl, MAX_ENTRIES};
use ctrl_exec_protocol::x509::verify::ChainVerifier;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Where the list is, below the root.
pub const PATH: &str = "/var/lib/ctrl-exec/revoked.crl";

/// The note of a certificate of our own that is not used any more.
pub const OWN: &str = "own certificate retired";

fn path(root: &Root) -> PathBuf {
    root.path(PATH)
}

/// The list as it was made last; `None` when there never was one.
///
/// # Errors
/// A file that cannot be read, or is no list.
pub fn load(root: &Root) -> Result<Option<Crl>, AppError> {
    let path = path(root);
    let fault =
        |error: &dyn std::fmt::Display| AppError::system(format!("{}: {error}", path.display()));
    let text = Bounded::new(65_536)
        .optional_text(&path)
        .map_err(|error| fault(&error))?;
    text.map(|text| Crl::from_pem(&text).map_err(|error| fault(&error)))
        .transpose()
}

/// Makes a new list when what is to be on it has changed, or another CA signs now; returns the list
/// in force.
///
/// # Errors
/// Files; or no CA key, where a new list is needed.
pub fn refresh(dispatcher: &Dispatcher, now: Utc) -> Result<Option<Crl>, AppError> {
    let root = &dispatcher.root;
    let path = path(root);
    if let Some(dir) = path.parent() {
        crate::store::files::dirs::ensure(dir)?;
    }
    let _lock = lock::wait(
        lock::open(&path.with_extension("crl.lock"), 0o660)?,
        Kind::Exclusive,
    )?;
    let wanted = wanted(dispatcher)?;
    let before = load(root)?;
    let same = match &before {
        None => wanted.is_empty(),
        Some(list) => {
            let serials = list.serials();
            let listed: BTreeSet<String> = serials.iter().map(|one| revoked::normal(one)).collect();
            listed == wanted && is_of_signer(dispatcher, list, now)
        }
    };
    if same {
        return Ok(before);
    }
    let authority = renew::authority(&dispatcher.config)?;
    // The time, so that a list made after a restored backup is newer than what agents have.
    let number = before.map_or(0, |list| list.number()).saturating_add(1);
    let number = number.max(u64::try_from(now.0).unwrap_or_default());
    let serials: Vec<String> = wanted.into_iter().collect();
    let list = authority.revocation_list(&serials, number, now)?;
    durable::write(&path, list.pem().as_bytes(), &Perm::mode(0o644))?;
    Ok(Some(list))
}

/// Whether the CA that signs now signed a list. Without its key nothing better could be made.
fn is_of_signer(dispatcher: &Dispatcher, list: &Crl, now: Utc) -> bool {
    let Ok(authority) = Authority::load(&CaDir::new(dispatcher.config.ca_dir())) else {
        return true;
    };
    let first = ctrl_exec_protocol::x509::pem::encode("CERTIFICATE", authority.der());
    ChainVerifier::from_pem(&first).is_ok_and(|trust| list.verify(&trust, now.0))
}

/// What is to be on the list: the newest entries, if there are more than it holds.
fn wanted(dispatcher: &Dispatcher) -> Result<BTreeSet<String>, AppError> {
    let issued = dispatcher.issued().all(Utc(0))?;
    let agents: BTreeSet<&str> = issued.iter().map(|cert| cert.serial.as_str()).collect();
    let entries = revoked::entries(&dispatcher.root).map_err(|error| {
        let path = revoked::path(&dispatcher.root);
        AppError::system(format!("cannot read {}: {error}", path.display()))
    })?;
    let mut serials = BTreeSet::new();
    for entry in entries.into_iter().rev() {
        if serials.len() < MAX_ENTRIES && !is_of_agent(&entry) && !agents.contains(&*entry.serial) {
            serials.insert(entry.serial);
        }
    }
    Ok(serials)
}

/// Whether a note says that an agent had the certificate: `<name> revoked <time>`.
fn is_of_agent(entry: &Entry) -> bool {
    let mut words = entry.comment.split_ascii_whitespace();
    let second = words.nth(1);
    matches!(second, Some("revoked" | "replaced"))
}

/// Bars a certificate of our own that is not used any more, given as agents are told serials. Agents
/// that were away when it was taken back learn it from the list.
///
/// # Errors
/// The list's.
pub fn retire_own(root: &Root, serial: &str, now: Utc) -> std::io::Result<()> {
    let Some(exact) = ctrl_exec_protocol::serial::of_wire(serial) else {
        return Ok(());
    };
    revoked::add(root, &[exact], &format!("{OWN} {}", now.iso())).map(|_| ())
}
