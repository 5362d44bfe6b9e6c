//! Issuing leaf certificates (pki-and-pairing.md §2.2).

use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use ctrl_exec_protocol::x509::pem;
use ctrl_exec_protocol::x509::verify::Role;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SerialNumber,
};

use super::request::{self, RcgenPublicKey, Request};
use super::{Authority, CaError, serial};

/// Validity of a certificate at pairing and of the dispatcher's own, in days.
pub const DAYS_DEFAULT: u32 = 825;
/// Validity of a renewed agent certificate unless configured, in days.
pub const DAYS_RENEWAL: u32 = 365;

/// Certificates begin this long before they are made, for devices whose clock is behind.
const BACKDATE: i64 = 86_400;
const DAY: i64 = 86_400;
const MAX_DAYS: u32 = 36_500;

/// A certificate that was just signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM, one block.
    pub pem: String,
    /// What is in it.
    pub facts: CertFacts,
}

impl Issued {
    /// End of validity in the form of registry records.
    pub fn expiry(&self) -> String {
        Utc(self.facts.not_after).openssl()
    }
}

impl Authority {
    /// Checks a request and signs it for `days` days from `now`. With `expected_cn`, only a
    /// request for that name; with `expected_key` (SubjectPublicKeyInfo), only one for that key.
    ///
    /// What is issued: version 3, subject `CN=` the request's, CA:FALSE, keyUsage
    /// digitalSignature, extended key usage server and client, a long random serial, valid
    /// from a day ago, never beyond the CA itself. Extensions in the request are not looked at.
    ///
    /// # Errors
    /// A request that may not be signed, or any fault in signing; nothing is written.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        expected_cn: Option<&str>,
        expected_key: Option<&[u8]>,
        days: u32,
        now: Utc,
    ) -> Result<Issued, CaError> {
        let facts = request::check(csr_pem)?;
        if let Some(expected) = expected_cn.filter(|expected| *expected != facts.cn) {
            return Err(CaError::WrongName {
                found: facts.cn,
                expected: expected.to_owned(),
            });
        }
        if expected_key.is_some_and(|key| key != facts.spki_der) {
            return Err(CaError::WrongKey);
        }
        self.issue(&facts, days, now)
    }

    /// Signs a certificate for a name and key that were checked.
    ///
    /// # Errors
    /// Days out of range, an expired CA, or any fault in signing.
    pub fn issue(&self, wanted: &Request, days: u32, now: Utc) -> Result<Issued, CaError> {
        if days == 0 || days > MAX_DAYS {
            return Err(CaError::Days(days));
        }
        let ca = self.facts();
        let own = ca.subject_cn.as_deref().unwrap_or_default();
        if wanted.cn.trim().eq_ignore_ascii_case(own.trim()) {
            return Err(CaError::CaName(wanted.cn.clone()));
        }
        if now.0 > ca.not_after {
            return Err(CaError::file(
                &self.dir.cert(),
                "the CA certificate has expired",
            ));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, wanted.cn.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date(now.0 - BACKDATE)?;
        params.not_after = date((now.0 + i64::from(days) * DAY).min(ca.not_after))?;
        let public = RcgenPublicKey::new(&wanted.spki_der, &wanted.key)?;
        let issuer = self.issuer()?;

        let lock = serial::lock(&self.dir)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial::mint()?));
        let signed = params
            .signed_by(&public, &issuer)
            .map_err(|error| CaError::Signing(error.to_string()))?;
        drop(lock);

        let der = signed.der();
        let facts = cert::facts(der).map_err(|error| CaError::Signing(error.to_string()))?;
        self.check(der, &facts, wanted, now)?;
        Ok(Issued {
            pem: pem::encode("CERTIFICATE", der),
            facts,
        })
    }

    /// Never hand out a certificate that our own verifier, and so every agent, would refuse: a CA
    /// with a subject that cannot be reproduced, for example.
    fn check(
        &self,
        der: &[u8],
        facts: &CertFacts,
        wanted: &Request,
        now: Utc,
    ) -> Result<(), CaError> {
        for role in [Role::Server, Role::Client] {
            self.verifier
                .verify(der, role, now.0)
                .map_err(|error| CaError::Signing(format!("own certificate refused: {error}")))?;
        }
        if facts.spki_der != wanted.spki_der {
            return Err(CaError::Signing(
                "the public key changed on the way".to_owned(),
            ));
        }
        Ok(())
    }
}

/// A date for rcgen.
pub(super) fn date(seconds: i64) -> Result<time::OffsetDateTime, CaError> {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| CaError::Signing(format!("{seconds} is no date")))
}
