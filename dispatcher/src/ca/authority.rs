//! The CA as loaded from its directory.

use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_protocol::x509::verify::ChainVerifier;
use rcgen::Issuer;
use rustls::pki_types::CertificateDer;

use super::request::RcgenKey;
use super::{CaDir, CaError, read_text};

/// A CA ready to sign.
#[derive(Debug)]
pub struct Authority {
    pub(super) dir: CaDir,
    pub(super) key: PrivateKey,
    pub(super) der: Vec<u8>,
    pub(super) verifier: ChainVerifier,
    pem: String,
    facts: CertFacts,
}

impl Authority {
    /// Loads `ca.key` and `ca.crt` and checks that they belong together. The first certificate of
    /// the file is the one that signs.
    ///
    /// # Errors
    /// Missing or unreadable files, no CA certificate, key of another certificate.
    pub fn load(dir: &CaDir) -> Result<Self, CaError> {
        let loaded = Self::read(dir);
        let pair = dir.pair();
        if loaded.is_err() && pair.suffixed(".new").cert.exists() {
            // A replacement of both that a crash interrupted.
            pair.recover()?;
            return Self::read(dir);
        }
        loaded
    }

    fn read(dir: &CaDir) -> Result<Self, CaError> {
        let (key_path, cert_path) = (dir.key(), dir.cert());
        let key = PrivateKey::from_pem(&read_text(&key_path)?)
            .map_err(|error| CaError::file(&key_path, error))?;
        let pem = read_text(&cert_path)?;
        let verifier =
            ChainVerifier::from_pem(&pem).map_err(|error| CaError::file(&cert_path, error))?;
        let der = cert::from_pem(&pem).map_err(|error| CaError::file(&cert_path, error))?;
        let facts = cert::facts(&der).map_err(|error| CaError::file(&cert_path, error))?;
        if facts.spki_der != key.spki_der() {
            let fault = format!("does not belong to {}", key_path.display());
            return Err(CaError::file(&cert_path, fault));
        }
        Ok(Self {
            dir: dir.clone(),
            key,
            der,
            verifier,
            pem,
            facts,
        })
    }

    /// Text of `ca.crt`, as delivered to agents.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// DER of the certificate that signs.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Facts of the CA certificate.
    pub fn facts(&self) -> &CertFacts {
        &self.facts
    }

    pub(super) fn issuer(&self) -> Result<Issuer<'static, RcgenKey<'_>>, CaError> {
        let key = RcgenKey::new(&self.key)?;
        let der = CertificateDer::from(self.der.as_slice());
        Issuer::from_ca_cert_der(&der, key).map_err(|error| CaError::file(&self.dir.cert(), error))
    }
}
