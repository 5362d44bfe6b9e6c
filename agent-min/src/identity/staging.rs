//! Renewed certificates: validation, staging, promotion (agent.md §10).

use crate::identity::clock::DeviceClock;
use crate::identity::files::Files;
use crate::trust::MAX_FILE;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::guarded::Guarded;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role, VerifyError};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Text for a certificate of a foreign CA.
pub const NOT_VERIFIED: &str = "renewed cert does not verify against the agent CA";
/// Text for a certificate of another key.
pub const WRONG_KEY: &str = "renewed cert public key does not match the agent key";

/// How [`promote`] ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Promotion {
    /// Nothing was staged.
    Nothing,
    /// The staged certificate is now the agent's.
    Installed,
    /// The staged certificate was unusable and has been removed; the text says why.
    Refused(String),
}

/// Checks that `cert_pem` was issued by the agent's CA for the agent's key and is valid now.
///
/// # Errors
/// The reason, in the words of agent.md §2.7.
pub fn validate(files: &Files, cert_pem: &str, clock: &DeviceClock) -> Result<(), String> {
    let ca = files.ca_text().ok().flatten();
    let ca = ca.ok_or_else(|| format!("CA cert not found at '{}'", files.ca.display()))?;
    let key = read(&files.key)
        .ok_or_else(|| format!("agent key not found at '{}'", files.key.display()))?;
    let leaf = cert::from_pem(cert_pem).map_err(|_| NOT_VERIFIED.to_owned())?;
    let facts = ChainVerifier::from_pem(&ca)
        .map_err(|error| format!("CA cert at '{}': {error}", files.ca.display()))?
        .beginning_by(clock.latest())
        .verify(&leaf, Role::Server, clock.now())
        .map_err(|error| match error {
            VerifyError::NotYetValid { .. } | VerifyError::Expired { .. } => error.to_string(),
            _ => NOT_VERIFIED.to_owned(),
        })?;
    let key = PrivateKey::agent_from_pem(&key)
        .map_err(|error| format!("agent key at '{}': {error}", files.key.display()))?;
    if key.spki_der() != facts.spki_der {
        return Err(WRONG_KEY.into());
    }
    Ok(())
}

/// Stores a validated certificate at `target`, whose directory must exist.
///
/// # Errors
/// `could not stage cert: …`.
pub fn stage(target: &Path, cert_pem: &str) -> Result<(), String> {
    durable::write(target, cert_pem.as_bytes(), &Perm::mode(0o640))
        .map_err(|error| format!("could not stage cert: {error}"))
}

/// Puts CA certificates that were handed over in the place of the CA file. True when there were
/// some; what the CA file does not vouch for is removed.
///
/// # Errors
/// They could not be written or removed; they are in force all the same.
pub fn promote_ca(files: &Files) -> Result<bool, String> {
    let Some(handed) = &files.handed else {
        return Ok(false);
    };
    let Ok(guarded) = Guarded::new(handed) else {
        return Ok(false);
    };
    if fs::symlink_metadata(guarded.path()).is_err() {
        return Ok(false);
    }
    let new = read(&files.ca).and_then(|own| files.handed_ca(&own));
    if let Some(text) = &new {
        write_as_before(&files.ca, text, 0o644)?;
    }
    durable::remove(guarded.path()).map_err(|error| guarded.explain(&error))?;
    Ok(new.is_some())
}

/// Whether CA certificates wait for [`promote_ca`].
pub fn ca_waits(files: &Files) -> bool {
    files.handed.as_deref().is_some_and(waits)
}

/// Whether a renewed certificate waits at `staged`.
pub fn waits(staged: &Path) -> bool {
    Guarded::new(staged).is_ok_and(|staged| is_regular(staged.path()))
}

/// Puts a staged certificate in the place of the agent's, if it is valid. Root does this in a
/// directory of the agent's user, who may have put anything there.
///
/// # Errors
/// The certificate could not be written or the staged file not removed, or only the clock is
/// against it: it stays then.
pub fn promote(staged: &Path, files: &Files, clock: &DeviceClock) -> Result<Promotion, String> {
    let Ok(guarded) = Guarded::new(staged) else {
        return Ok(Promotion::Nothing);
    };
    let at = guarded.path();
    if fs::symlink_metadata(at).is_err() {
        return Ok(Promotion::Nothing);
    }
    let remove = || durable::remove(at).map_err(|error| guarded.explain(&error));
    let pem = match Bounded::new(MAX_FILE).no_follow().text(at) {
        Ok(pem) => pem,
        Err(error) => {
            remove()?;
            return Ok(Promotion::Refused(format!("{}: {error}", staged.display())));
        }
    };
    match validate(files, &pem, clock) {
        Ok(()) => {}
        Err(reason) if reason.contains("clock says") => return Err(reason),
        Err(reason) => {
            remove()?;
            return Ok(Promotion::Refused(reason));
        }
    }
    write_as_before(&files.cert, &pem, 0o640)?;
    remove()?;
    Ok(Promotion::Installed)
}

/// Replaces a file and leaves it to its owner.
fn write_as_before(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let owner = fs::metadata(path).ok().map(|meta| (meta.uid(), meta.gid()));
    let owner = owner.filter(|_| rustix::process::geteuid().is_root());
    let file = Guarded::new(path).map_err(|error| error.to_string())?;
    durable::write(file.path(), text.as_bytes(), &Perm { mode, owner })
        .map_err(|error| file.explain(&error))
}

fn is_regular(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn read(path: &Path) -> Option<String> {
    crate::trust::read_bounded(path).ok().flatten()
}
