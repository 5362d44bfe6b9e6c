//! The certificate authority of the fleet: creating and loading it, issuing leaf certificates,
//! setting up the dispatcher's own identity (pki-and-pairing.md §1, §2).
//!
//! A directory made by the reference (RSA-4096, PKCS#8 or PKCS#1 key) is used as it is; `ca.serial`
//! and its lock are honoured so that both programs may sign in one directory.

mod authority;
mod issue;
mod judge;
mod pair;
pub mod request;
mod serial;
mod setup;
mod succession;

pub use authority::Authority;
pub use issue::{DAYS_DEFAULT, DAYS_RENEWAL, Issued};
pub use judge::WebPki;
pub use pair::{IdentityFiles, Owner};
pub use serial::{live_serial, new_counter, trust_serial};
pub(crate) use setup::new_identity;
pub use setup::{CaOptions, DISPATCHER_CN, setup_ca, setup_dispatcher};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ctrl_exec_protocol::x509::keys::KeyError;

use request::RequestError;

/// Largest key or certificate file that is read, in bytes.
const MAX_FILE: u64 = 65_536;

/// The three files of a CA directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaDir(PathBuf);

impl CaDir {
    /// The CA in this directory; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// `ca.key`.
    pub fn key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    /// `ca.crt`.
    pub fn cert(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    /// `ca.handover`: the CA certificates that agents are to have, once that changed.
    pub fn handover(&self) -> PathBuf {
        self.0.join("ca.handover")
    }

    /// The CA that is to take this one's place, while that goes on.
    pub fn next(&self) -> Self {
        Self(self.0.join("next"))
    }

    /// Where the CA that was replaced is kept.
    pub fn old(&self) -> Self {
        Self(self.0.join("old"))
    }

    /// Key and certificates as a pair that is replaced together.
    pub fn pair(&self) -> IdentityFiles {
        IdentityFiles::new(self.cert(), self.key())
    }

    /// `ca.serial`: the reference's counter, and the lock of every signing.
    pub fn serial(&self) -> PathBuf {
        self.0.join("ca.serial")
    }
}

/// Why the CA, or something with certificates, did not work. `Display` names the file.
#[derive(Debug)]
pub enum CaError {
    /// The operating system said no.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// A file's content does not do.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The request cannot be signed.
    Csr(RequestError),
    /// The request is for another name than the one expected.
    WrongName {
        /// The name in the request.
        found: String,
        /// The name that was paired.
        expected: String,
    },
    /// The request is for another key than the one expected.
    WrongKey,
    /// The request is for the CA's own name.
    CaName(String),
    /// There is a CA already.
    Exists(PathBuf),
    /// A key could not be made.
    Key(KeyError),
    /// Signing failed; the text says where.
    Signing(String),
    /// A number of days that cannot be.
    Days(u32),
}

impl CaError {
    pub(crate) fn io(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            error,
        }
    }

    pub(crate) fn file(path: &Path, fault: impl fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            fault: fault.to_string(),
        }
    }
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::PermissionDenied => f.write_str(" (try sudo)"),
                    io::ErrorKind::NotFound if path.ends_with("ca.key") => f.write_str(
                        if path.with_file_name("ca.crt").exists() {
                            " (the CA's key is not on this host: restore it from a backup; a new CA \
                             would cut every agent off)"
                        } else {
                            " (no CA here: run setup-ca first)"
                        },
                    ),
                    _ => Ok(()),
                }
            }
            Self::File { path, fault } => write!(f, "{}: {fault}", path.display()),
            Self::Csr(error) => error.fmt(f),
            Self::WrongName { found, expected } => write!(
                f,
                "CSR is for '{}', expected '{}'",
                found.escape_debug(),
                expected.escape_debug()
            ),
            Self::CaName(name) => write!(
                f,
                "'{}' is the name of the CA itself; no certificate is made for it",
                name.escape_debug()
            ),
            Self::WrongKey => f.write_str("CSR is for another key than the agent uses"),
            Self::Exists(path) => {
                write!(f, "{} exists already; it is not replaced", path.display())
            }
            Self::Key(error) => error.fmt(f),
            Self::Signing(why) => write!(f, "signing failed: {why}"),
            Self::Days(days) => write!(f, "{days} days is no usable validity (1 to 36500)"),
        }
    }
}

impl std::error::Error for CaError {}

impl From<RequestError> for CaError {
    fn from(error: RequestError) -> Self {
        Self::Csr(error)
    }
}

/// Reads a small text file of the PKI.
pub(crate) fn read_text(path: &Path) -> Result<String, CaError> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        .map_err(|error| CaError::io("read", path, error))?;
    Ok(text)
}

#[cfg(test)]
mod tests;
