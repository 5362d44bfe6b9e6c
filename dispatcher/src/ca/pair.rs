//! A certificate file and its key file, replaced together and recovered after a crash between.
//!
//! Two renames cannot be one step. The new files are first written beside the old ones as
//! `<name>.new`; then the key is renamed, then the certificate. Whatever moment a crash picks,
//! [`IdentityFiles::recover`] either finishes (key already in place) or takes back (key not yet).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::tls::{Identity, IdentityError};
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::keys::PrivateKey;

use super::{CaError, read_text};

/// A temporary file of this age belongs to no living writer.
const ABANDONED: Duration = Duration::from_secs(600);

/// Who owns a new key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// The service user's ids from a passwd file; `None` when there is no such user. Only root can
    /// give a file away, so for others there is no owner to set.
    pub fn of_user(passwd: &Path, user: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let text = std::fs::read_to_string(passwd).ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (name == user).then_some(Self { uid, gid })
        })
    }
}

/// Where an identity is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Certificate, PEM, mode 0644.
    pub cert: PathBuf,
    /// Key, PEM, mode 0600.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// The pair at these paths.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            cert: cert.into(),
            key: key.into(),
        }
    }

    /// The pair with `suffix` on both names: `.prev` is the pair before the last rotation.
    pub fn suffixed(&self, suffix: &str) -> Self {
        Self {
            cert: suffixed(&self.cert, suffix),
            key: suffixed(&self.key, suffix),
        }
    }

    /// Whether both files are there.
    pub fn exist(&self) -> bool {
        self.cert.exists() && self.key.exists()
    }

    /// Loads the pair. A replacement that another process is just making, or left unfinished, is
    /// waited for or recovered.
    ///
    /// # Errors
    /// Unreadable files, or a key of another certificate.
    pub fn load(&self) -> Result<Identity, CaError> {
        for _ in 0..10 {
            let (cert, key) = (read_text(&self.cert)?, read_text(&self.key)?);
            match Identity::from_pem(&cert, &key) {
                Err(IdentityError::Mismatch) if suffixed(&self.cert, ".new").exists() => {
                    let _ = self.recover();
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(self.fault(&error)),
                Ok(identity) => return Ok(identity),
            }
        }
        Err(self.fault(&IdentityError::Mismatch))
    }

    /// Replaces both files, or makes them.
    ///
    /// # Errors
    /// The operating system's; then the old pair is still (or again, after
    /// [`recover`](Self::recover)) in place.
    pub fn replace(
        &self,
        cert_pem: &str,
        key_pem: &str,
        owner: Option<Owner>,
    ) -> Result<(), CaError> {
        self.recover()?;
        sweep(&self.key);
        let new = self.suffixed(".new");
        // The key first: a certificate alone is a promise that recover() could not keep.
        write(&new.key, key_pem, 0o600, owner)?;
        write(&new.cert, cert_pem, 0o644, None)?;
        rename(&new.key, &self.key)?;
        rename(&new.cert, &self.cert)
    }

    /// Finishes or takes back a replacement that a crash interrupted. Nothing to do is no error.
    ///
    /// # Errors
    /// The operating system's.
    pub fn recover(&self) -> Result<(), CaError> {
        let new = self.suffixed(".new");
        if new.key.exists() {
            // The key was not renamed yet: the old pair stands.
            remove(&new.cert)?;
            return remove(&new.key);
        }
        if !new.cert.exists() {
            return Ok(());
        }
        let belongs = match (read_text(&new.cert), read_text(&self.key)) {
            (Ok(cert_pem), Ok(key_pem)) => belong(&cert_pem, &key_pem),
            _ => false,
        };
        if belongs {
            rename(&new.cert, &self.cert)
        } else {
            remove(&new.cert)
        }
    }

    /// Copies the pair to `target` with the same modes and the key's owner.
    ///
    /// # Errors
    /// Unreadable source or the operating system's.
    pub fn copy_to(&self, target: &Self) -> Result<(), CaError> {
        use std::os::unix::fs::MetadataExt;
        let meta =
            std::fs::metadata(&self.key).map_err(|error| CaError::io("read", &self.key, error))?;
        let mine = rustix::process::geteuid().as_raw();
        let owner = (meta.uid() != mine || rustix::process::geteuid().is_root()).then(|| Owner {
            uid: meta.uid(),
            gid: meta.gid(),
        });
        write(&target.key, &read_text(&self.key)?, 0o600, owner)?;
        write(&target.cert, &read_text(&self.cert)?, 0o644, None)
    }

    /// Removes both files, key first.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self) -> Result<(), CaError> {
        remove(&self.key)?;
        remove(&self.cert)
    }

    fn fault(&self, error: &IdentityError) -> CaError {
        match error {
            IdentityError::Cert(fault) => CaError::file(&self.cert, fault),
            IdentityError::Key(fault) => CaError::file(&self.key, fault),
            IdentityError::Mismatch => {
                let fault = format!("does not belong to {}", self.cert.display());
                CaError::file(&self.key, fault)
            }
        }
    }
}

/// Removes what a killed writer left of a key: temporary files of that name and its variants,
/// private but nobody's, that are older than any writer can be.
fn sweep(key: &Path) {
    let (Some(dir), Some(name)) = (key.parent(), key.file_name()) else {
        return;
    };
    let prefix = format!(".{}", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED));
        if old && name.starts_with(&prefix) && name.ends_with(".tmp") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn belong(cert_pem: &str, key_pem: &str) -> bool {
    match (
        cert::facts_from_pem(cert_pem),
        PrivateKey::from_pem(key_pem),
    ) {
        (Ok(facts), Ok(key)) => facts.spki_der == key.spki_der(),
        _ => false,
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn write(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<(), CaError> {
    let mut perm = Perm::mode(mode);
    if let Some(owner) = owner {
        perm = perm.owned_by(owner.uid, owner.gid);
    }
    durable::write(path, text.as_bytes(), &perm).map_err(|error| CaError::io("write", path, error))
}

fn rename(from: &Path, to: &Path) -> Result<(), CaError> {
    std::fs::rename(from, to).map_err(|error| CaError::io("replace", to, error))?;
    let dir = to.parent().unwrap_or(Path::new("."));
    durable::sync_dir(dir).map_err(|error| CaError::io("sync", dir, error))
}

fn remove(path: &Path) -> Result<(), CaError> {
    match durable::remove(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CaError::io("remove", path, error)),
    }
}
