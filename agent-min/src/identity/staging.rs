//! Renewed certificates: validation, staging, promotion (agent.md §10).

use crate::identity::files::Files;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_protocol::x509::{cert, verify};
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

/// Checks that `cert_pem` was issued by the agent's CA for the agent's key and is valid at `now`
/// (Unix seconds).
///
/// # Errors
/// The reason, in the words of agent.md §2.7.
pub fn validate(files: &Files, cert_pem: &str, now: i64) -> Result<(), String> {
    let ca =
        read(&files.ca).ok_or_else(|| format!("CA cert not found at '{}'", files.ca.display()))?;
    let key = read(&files.key)
        .ok_or_else(|| format!("agent key not found at '{}'", files.key.display()))?;
    let leaf = cert::from_pem(cert_pem).map_err(|_| NOT_VERIFIED.to_owned())?;
    let facts = verify::verify_leaf(&ca, &leaf, now).map_err(|_| NOT_VERIFIED.to_owned())?;
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

/// Puts a staged certificate in the place of the agent's, if it is valid.
///
/// # Errors
/// The certificate could not be written or the staged file not removed.
pub fn promote(staged: &Path, files: &Files, now: i64) -> Result<Promotion, String> {
    if !staged.is_file() {
        return Ok(Promotion::Nothing);
    }
    let pem = read(staged).unwrap_or_default();
    if let Err(reason) = validate(files, &pem, now) {
        durable::remove(staged).map_err(|error| error.to_string())?;
        return Ok(Promotion::Refused(reason));
    }
    let owner = fs::metadata(&files.cert)
        .ok()
        .map(|meta| (meta.uid(), meta.gid()));
    let owner = owner.filter(|_| rustix::process::geteuid().is_root());
    durable::write(&files.cert, pem.as_bytes(), &Perm { mode: 0o640, owner })
        .and_then(|()| durable::remove(staged))
        .map_err(|error| error.to_string())?;
    Ok(Promotion::Installed)
}

fn read(path: &Path) -> Option<String> {
    crate::trust::read_bounded(path).ok().flatten()
}
