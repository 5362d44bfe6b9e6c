//! The files of the agent's identity: certificate, private key and CA.

use crate::identity::clock::DeviceClock;
use crate::trust::read_bounded;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert;
use std::path::{Path, PathBuf};

/// The files of the agent's identity, where they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificate.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// CA certificate.
    pub ca: PathBuf,
}

impl Files {
    /// The files that are missing.
    pub fn missing(&self) -> Vec<PathBuf> {
        let all = [&self.cert, &self.key, &self.ca];
        all.into_iter()
            .filter(|path| !path.is_file())
            .cloned()
            .collect()
    }

    /// What these files tell of the time. Without a certificate there is no proof.
    pub fn clock(&self) -> DeviceClock {
        let text = read_bounded(&self.cert).ok().flatten().unwrap_or_default();
        let not_before = cert::facts_from_pem(&text).map_or(i64::MIN, |facts| facts.not_before);
        DeviceClock::new(not_before, &[&self.cert, &self.ca])
    }
}

/// notAfter of a certificate file in OpenSSL's form, or `unknown`.
pub fn expiry_of(path: &Path) -> String {
    let text = read_bounded(path).ok().flatten().unwrap_or_default();
    cert::facts_from_pem(&text).map_or_else(
        |_| "unknown".to_owned(),
        |facts| Utc(facts.not_after).openssl(),
    )
}
