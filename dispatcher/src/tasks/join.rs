//! Taking over the CA of another dispatcher (`join-ca`), so that both sign for one fleet.
//!
//! Both issue random serials of 16 bytes, so they never collide. What one revokes the other learns
//! when it joins again.

use super::restore::{Opened, required};
use crate::backup::{Archive, Place, Places, merged};
use crate::ca::{self, Authority, CaDir, CaError, DAYS_DEFAULT, Owner};
use crate::model::{self, AppError};
use crate::store::files::{issued, revoked};
use crate::trust;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::lock::{self, Kind};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_host::users;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::keys::{KeyType, PrivateKey};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role};
use std::path::{Path, PathBuf};

/// What joining came to.
#[derive(Debug)]
pub struct Joined {
    /// This dispatcher had that CA already.
    pub again: bool,
    /// The id of this dispatcher.
    pub dispatcher_id: String,
    /// Serial of its certificate.
    pub serial: String,
    /// The certificate was made now.
    pub new_identity: bool,
    /// Lines that the lists of revoked and issued certificates gained.
    pub gained: (usize, usize),
}

/// Takes over the CA in the file, and makes an identity for this dispatcher.
///
/// # Errors
/// Another CA here, the other dispatcher's id, or the operating system's. Begun again after a
/// crash it goes on.
pub fn join(places: &Places, opened: &Opened, log: &Syslog) -> Result<Joined, AppError> {
    let archive = &opened.archive;
    let config = places.config();
    let id = config.dispatcher_id();
    if id == archive.manifest.dispatcher_id {
        return Err(refused(format!(
            "this dispatcher's id is '{id}', like that of the one the CA is of, and agents would \
             take them for one: set another dispatcher_id in {}",
            config.path().display()
        )));
    }
    let dir = places.ca();
    let (cert_place, key_place) = (
        Place::Ca("ca.crt".to_owned()),
        Place::Ca("ca.key".to_owned()),
    );
    let pem = required(archive, &cert_place)?;
    let key = required(archive, &key_place)?;
    let again = no_other_ca(&dir, &config.ca(), &pem.data)?;
    check_pair(&pem.data, &key.data)?;
    let pem_text = String::from_utf8_lossy(&pem.data).into_owned();
    let files = trust::identity_files(config);
    let mine = own_identity(&files, &pem_text)?;
    std::fs::create_dir_all(dir.dir()).map_err(|error| io("create", dir.dir(), &error))?;
    let write = |path: &Path, data: &[u8], mode| {
        durable::write(path, data, &Perm::mode(mode)).map_err(|error| io("write", path, &error))
    };
    // The key last: with it the CA is there.
    let mut certs = vec![dir.cert()];
    if config.ca() != dir.cert() {
        certs.push(config.ca());
    }
    for path in certs.iter().filter(|path| !path.exists()) {
        write(path, &pem.data, 0o644)?;
    }
    if !dir.serial().exists() {
        ca::new_counter(&dir)?;
    }
    let root = config.root();
    let gained = (
        grow(root.path(revoked::PATH), "revoked-serials", archive)?,
        grow(root.path(issued::PATH), "issued-certificates", archive)?,
    );
    if !dir.key().exists() {
        write(&dir.key(), &key.data, 0o600)?;
    }
    let serial = match &mine {
        Some(serial) => serial.clone(),
        None => {
            let authority = Authority::load(&dir)?;
            let owner = Owner::of_user(Path::new(users::PASSWD), config.service_user());
            let days = config.cert_days()?.unwrap_or(DAYS_DEFAULT);
            let now = Utc::now();
            let made =
                ca::setup_dispatcher(&authority, &files, owner, KeyType::EcdsaP256, days, now)?;
            made.facts.serial_hex
        }
    };
    let line = Line::new("ca-joined")
        .field("OF", &archive.manifest.dispatcher_id)
        .field("DISPATCHER", &id)
        .field("SERIAL", &serial);
    log.log(Level::Warning, &line);
    Ok(Joined {
        again,
        dispatcher_id: id,
        serial,
        new_identity: mine.is_none(),
        gained,
    })
}

/// Refuses where another CA is; whether this one is here whole already.
fn no_other_ca(dir: &CaDir, trusted: &Path, pem: &[u8]) -> Result<bool, AppError> {
    let facts = |pem: &[u8]| {
        let text = std::str::from_utf8(pem).ok()?;
        cert::facts_from_pem(text).ok().map(|facts| facts.spki_der)
    };
    let wanted = facts(pem).ok_or_else(|| refused("its ca.crt is no certificate".to_owned()))?;
    for path in [&dir.cert(), trusted] {
        let here = Bounded::new(1 << 20).optional(path);
        let Some(here) = here.map_err(|error| io("read", path, &error))? else {
            continue;
        };
        if facts(&here).as_ref() != Some(&wanted) {
            return Err(refused(format!(
                "{} is another CA: agents paired with it would be cut off. Move it aside first if \
                 that is meant",
                path.display()
            )));
        }
    }
    match Authority::load(dir) {
        Ok(_) => Ok(true),
        Err(CaError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            // A key whose certificate is missing may be of any CA.
            let stray = dir.key().exists() && !dir.cert().exists();
            if stray {
                return Err(refused(format!(
                    "{} is there already, without its certificate",
                    dir.key().display()
                )));
            }
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_pair(pem: &[u8], key: &[u8]) -> Result<(), AppError> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let facts = cert::facts_from_pem(text(pem)).ok();
    let key = PrivateKey::from_pem(text(key)).ok();
    match (facts, key) {
        (Some(facts), Some(key)) if facts.spki_der == key.spki_der() => Ok(()),
        _ => Err(refused(
            "its CA key and certificate do not belong together".to_owned(),
        )),
    }
}

/// The serial of this dispatcher's certificate, if it has one of that CA.
fn own_identity(files: &ca::IdentityFiles, pem: &str) -> Result<Option<String>, AppError> {
    if !files.cert.exists() {
        return Ok(None);
    }
    let identity = files.load()?;
    let verifier =
        ChainVerifier::from_pem(pem).map_err(|error| refused(format!("its ca.crt: {error}")))?;
    let at = identity.facts().not_before + 86_400;
    verifier
        .verify(identity.leaf_der(), Role::Client, at)
        .map_err(|_| {
            refused(format!(
                "{} was made by another CA: move it and its key aside first",
                files.cert.display()
            ))
        })?;
    Ok(Some(identity.facts().serial_hex.clone()))
}

/// Adds the lines of the file's list to ours; returns how many.
fn grow(path: PathBuf, name: &str, archive: &Archive) -> Result<usize, AppError> {
    let Some(theirs) = archive.text(&Place::State(name.to_owned())) else {
        return Ok(0);
    };
    if let Some(dir) = path.parent() {
        crate::store::files::dirs::ensure(dir).map_err(|error| io("create", dir, &error))?;
    }
    let lock_path = path.with_extension("lock");
    let _lock = lock::open(&lock_path, 0o660)
        .and_then(|file| lock::wait(file, Kind::Exclusive))
        .map_err(|error| io("lock", &lock_path, &error))?;
    let ours = Bounded::new(128 << 20)
        .no_follow()
        .optional_text(&path)
        .map_err(|error| io("read", &path, &error))?
        .unwrap_or_default();
    let all = merged(name, &ours, theirs).unwrap_or_default();
    if all == ours {
        return Ok(0);
    }
    durable::write(&path, all.as_bytes(), &Perm::mode(0o644))
        .map_err(|error| io("write", &path, &error))?;
    Ok(all.lines().count().saturating_sub(ours.lines().count()))
}

fn refused(why: String) -> AppError {
    AppError::new(model::Kind::Conflict, format!("{why}; nothing was changed"))
}

fn io(doing: &str, path: &Path, error: &std::io::Error) -> AppError {
    AppError::system(format!("cannot {doing} {}: {error}", path.display()))
}
