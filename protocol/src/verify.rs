//! Does this certificate belong to our CA? One answer for every program (pki-and-pairing.md §2.4,
//! §4; design §3).
//!
//! A peer is accepted when its leaf certificate was issued *directly* by a configured CA, is not a
//! CA itself and is within its dates. Names are never checked: the serial is the identity. Version
//! 3 leaves go through `webpki` as well (extended key usage, basic constraints, critical
//! extensions, name constraints of the CA); version 1 leaves, which the reference issues, have
//! nothing of the kind and get every check that can be made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity};

use crate::cert::{self, CertError, CertFacts};
use crate::{der, pem};

/// What time it is, in Unix seconds. Routers boot in 1970, so every program says itself which
/// clock certificates are judged by (design §2).
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| crate::time::Utc::now().0)
}

/// What the peer's certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
}

/// Why the CA file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// Not PEM certificates.
    Pem(pem::PemError),
    /// One of the certificates cannot be read.
    Cert(CertError),
    /// A certificate that is no CA (no basicConstraints CA:TRUE, or keyUsage without keyCertSign).
    NotACa(String),
    /// Something `webpki` does not accept in a CA.
    Unusable(String),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(error) => error.fmt(f),
            Self::Cert(error) => error.fmt(f),
            Self::NotACa(name) => write!(f, "'{name}' is not a CA certificate"),
            Self::Unusable(why) => write!(f, "unusable CA certificate: {why}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// Why a peer's certificate was refused. `Display` is fit for a log and for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// It cannot be read.
    Cert(CertError),
    /// Issued by somebody else.
    UnknownIssuer,
    /// The CA did not sign this.
    BadSignature,
    /// Signed with an algorithm that is not accepted.
    UnsupportedSignature,
    /// A CA certificate presented as a leaf.
    IsCa,
    /// Not valid yet.
    NotYetValid {
        /// The time it was judged by.
        now: i64,
        /// Start of validity.
        not_before: i64,
    },
    /// Expired.
    Expired {
        /// The time it was judged by.
        now: i64,
        /// End of validity.
        not_after: i64,
    },
    /// The CA itself is outside its dates.
    CaOutOfDate,
    /// Key usage or extended key usage forbids this use.
    WrongPurpose,
    /// Another fault that `webpki` found.
    Other(String),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |seconds: i64| crate::time::Utc(seconds).iso();
        match self {
            Self::Cert(error) => error.fmt(f),
            Self::UnknownIssuer => f.write_str("certificate was not issued by the configured CA"),
            Self::BadSignature => f.write_str("certificate has a bad signature"),
            Self::UnsupportedSignature => {
                f.write_str("certificate is signed with an unsupported algorithm")
            }
            Self::IsCa => f.write_str("a CA certificate cannot be used by a peer"),
            Self::NotYetValid { now, not_before } => write!(
                f,
                "certificate is not valid before {} (clock says {})",
                date(*not_before),
                date(*now)
            ),
            Self::Expired { now, not_after } => write!(
                f,
                "certificate expired at {} (clock says {})",
                date(*not_after),
                date(*now)
            ),
            Self::CaOutOfDate => f.write_str("the CA certificate is expired or not valid yet"),
            Self::WrongPurpose => f.write_str("certificate may not be used for this purpose"),
            Self::Other(why) => write!(f, "certificate refused: {why}"),
        }
    }
}

impl std::error::Error for VerifyError {}

/// The configured CA (or several, in one file), against which leaf certificates are checked.
pub struct ChainVerifier {
    authorities: Vec<CertFacts>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl fmt::Debug for ChainVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.authorities.iter().map(|ca| ca.subject_cn.as_deref());
        f.debug_list().entries(names).finish()
    }
}

impl ChainVerifier {
    /// Reads the text of a CA file: one or more CA certificates.
    ///
    /// # Errors
    /// Unreadable, or a certificate in it is no CA.
    pub fn from_pem(ca_pem: &str) -> Result<Self, TrustError> {
        let mut authorities = Vec::new();
        let mut anchors = Vec::new();
        for certificate in pem::certificates(ca_pem).map_err(TrustError::Pem)? {
            let facts = cert::facts(&certificate).map_err(TrustError::Cert)?;
            if !facts.is_ca || !facts.may_sign_certificates {
                let name = facts.subject_cn.unwrap_or_default();
                return Err(TrustError::NotACa(name));
            }
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|error| TrustError::Unusable(error.to_string()))?
                .to_owned();
            authorities.push(facts);
            anchors.push(anchor);
        }
        Ok(Self {
            authorities,
            anchors,
        })
    }

    /// Facts of the configured CA certificates, at least one.
    pub fn authorities(&self) -> impl Iterator<Item = &CertFacts> {
        self.authorities.iter()
    }

    /// Checks a leaf certificate completely: issuer, signature, dates at `now` (Unix seconds) and
    /// purpose. Returns its facts.
    ///
    /// # Errors
    /// The first fault found.
    pub fn verify(&self, leaf: &[u8], role: Role, now: i64) -> Result<CertFacts, VerifyError> {
        let parsed = cert::parse(leaf).map_err(VerifyError::Cert)?;
        let facts = &parsed.facts;
        if facts.is_ca {
            return Err(VerifyError::IsCa);
        }
        in_dates(facts, now)?;
        let issuers = self.issuers(facts, now)?;
        if facts.version == 3 {
            self.version_3(leaf, facts, role, now, &issuers)?;
        } else {
            self.version_1(&parsed.signed, &issuers)?;
        }
        Ok(parsed.facts)
    }

    /// Positions of the authorities that bear the issuer's name and are within their dates; after
    /// a CA's renewal there may be two. (`webpki` does not look at a trust anchor's dates.)
    fn issuers(&self, leaf: &CertFacts, now: i64) -> Result<Vec<usize>, VerifyError> {
        let named = |(_, ca): &(usize, &CertFacts)| ca.subject_der == leaf.issuer_der;
        let in_date = |(_, ca): &(usize, &CertFacts)| in_dates(ca, now).is_ok();
        if !self
            .authorities
            .iter()
            .enumerate()
            .any(|entry| named(&entry))
        {
            return Err(VerifyError::UnknownIssuer);
        }
        let found: Vec<usize> = self
            .authorities
            .iter()
            .enumerate()
            .filter(named)
            .filter(in_date)
            .map(|(position, _)| position)
            .collect();
        if found.is_empty() {
            Err(VerifyError::CaOutOfDate)
        } else {
            Ok(found)
        }
    }

    fn version_1(&self, signed: &der::Signed<'_>, issuers: &[usize]) -> Result<(), VerifyError> {
        let mut fault = VerifyError::UnknownIssuer;
        for ca in issuers
            .iter()
            .filter_map(|position| self.authorities.get(*position))
        {
            match verify_signed(&ca.spki_der, signed) {
                Ok(()) => return Ok(()),
                Err(SignedError::Bad) => fault = VerifyError::BadSignature,
                Err(SignedError::Unsupported) => fault = VerifyError::UnsupportedSignature,
            }
        }
        Err(fault)
    }

    fn version_3(
        &self,
        leaf: &[u8],
        facts: &CertFacts,
        role: Role,
        now: i64,
        issuers: &[usize],
    ) -> Result<(), VerifyError> {
        if !facts.may_sign {
            return Err(VerifyError::WrongPurpose);
        }
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let anchors: Vec<TrustAnchor<'static>> = issuers
            .iter()
            .filter_map(|position| self.anchors.get(*position).cloned())
            .collect();
        let leaf = CertificateDer::from(leaf);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap_or(0)));
        EndEntityCert::try_from(&leaf)
            .map_err(webpki_fault)?
            .verify_for_usage(algorithms(), &anchors, &[], time, usage, None, None)
            .map_err(webpki_fault)?;
        Ok(())
    }
}

/// Convenience for one-off checks: does `leaf` (DER) chain to the CA text at `now`? As a server
/// certificate, which is how an agent's certificate is used.
///
/// # Errors
/// A text that names the fault, of the CA file or of the leaf.
pub fn verify_leaf(ca_pem: &str, leaf: &[u8], now: i64) -> Result<CertFacts, String> {
    let verifier = ChainVerifier::from_pem(ca_pem).map_err(|error| format!("CA: {error}"))?;
    verifier
        .verify(leaf, Role::Server, now)
        .map_err(|error| error.to_string())
}

/// Why a signature over a certificate or request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignedError {
    Bad,
    Unsupported,
}

/// Verifies the signature of a signed object with the key of a SubjectPublicKeyInfo.
pub(crate) fn verify_signed(spki: &[u8], signed: &der::Signed<'_>) -> Result<(), SignedError> {
    let spki = SubjectPublicKeyInfoDer::from(spki);
    let key = RawPublicKeyEntity::try_from(&spki).map_err(|_| SignedError::Unsupported)?;
    let mut fault = SignedError::Unsupported;
    for algorithm in algorithms() {
        if algorithm.signature_alg_id().as_ref() != signed.algorithm.content {
            continue;
        }
        match key.verify_signature(*algorithm, signed.body.whole, signed.signature) {
            Ok(()) => return Ok(()),
            // Several algorithms share an identifier and differ in the key they want.
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => fault = SignedError::Bad,
        }
    }
    Err(fault)
}

/// The signature algorithms accepted on certificates and requests: SHA-256 or better with RSA of
/// 2048 to 8192 bits (PKCS#1 v1.5 or PSS), ECDSA on P-256 and P-384, Ed25519.
pub(crate) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    crate::tls::SIGNATURES.all
}

fn in_dates(facts: &CertFacts, now: i64) -> Result<(), VerifyError> {
    if now < facts.not_before {
        return Err(VerifyError::NotYetValid {
            now,
            not_before: facts.not_before,
        });
    }
    if now > facts.not_after {
        return Err(VerifyError::Expired {
            now,
            not_after: facts.not_after,
        });
    }
    Ok(())
}

fn webpki_fault(error: webpki::Error) -> VerifyError {
    match error {
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            VerifyError::WrongPurpose
        }
        webpki::Error::CaUsedAsEndEntity => VerifyError::IsCa,
        webpki::Error::UnknownIssuer => VerifyError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => VerifyError::BadSignature,
        webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            VerifyError::UnsupportedSignature
        }
        other => VerifyError::Other(other.to_string()),
    }
}
