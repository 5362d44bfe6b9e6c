//! The files of the agent's identity: certificate, private key and CA.

use crate::identity::clock::DeviceClock;
use crate::trust::{MAX_FILE, read_bounded};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::{cert, handover};
use std::io;
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
    /// CA certificates that were handed over, to be used in place of [`Files::ca`] where that vouches
    /// for them. None while a pairing is being completed, which brings a CA of its own.
    pub handed: Option<PathBuf>,
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

    /// The text of the CA certificates in force; `None` when there is no CA file.
    ///
    /// # Errors
    /// The CA file cannot be read.
    pub fn ca_text(&self) -> io::Result<Option<String>> {
        let own = read_bounded(&self.ca)?;
        Ok(match &own {
            Some(ca) => self.handed_ca(ca).or(own),
            None => None,
        })
    }

    /// What was handed over and is vouched for by the CA text `own`. Its place is the agent's user's,
    /// so this is asked at every reading.
    pub fn handed_ca(&self, own: &str) -> Option<String> {
        let place = Bounded::new(MAX_FILE).no_follow();
        let text = place.optional_text(self.handed.as_ref()?).ok()??;
        handover::admit(own, &text).is_ok().then_some(text)
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
