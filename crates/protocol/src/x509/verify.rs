//! Does this certificate belong to our CA? One answer for every program (pki-and-pairing.md §2.4,
//! §4; design §3).
//!
//! A peer is accepted when its leaf certificate was issued *directly* by a configured CA, is not a
//! CA itself and is within its dates. Names are never checked: the serial is the identity. Version
//! 3 leaves are also judged by their key usage, extended key usage and critical extensions; version
//! 1 leaves, which the reference issues, have nothing of the kind.
//!
//! `webpki` knows no version 1 and builds paths through intermediates, which do not exist here; it
//! is 42 KB of a router's flash. Its verdicts are what this is tested against
//! (`tests/verify_differential.rs`), and the signature algorithms are its own.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::SignatureVerificationAlgorithm;

use crate::x509::cert::{self, CertError, CertFacts};
use crate::x509::{der, pem};

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
    /// A CA certificate with a constraint that would have to be enforced and is not supported.
    Unusable(&'static str),
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
    /// A critical extension that is not understood.
    CriticalExtension,
    /// Accepted here, but refused by the second [`Judge`], in its words.
    Disputed(String),
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
            Self::CriticalExtension => {
                f.write_str("certificate has a critical extension that is not supported")
            }
            Self::Disputed(words) => {
                write!(
                    f,
                    "certificate was accepted by one verifier and refused by another: {words}"
                )
            }
        }
    }
}

impl std::error::Error for VerifyError {}

/// A second opinion on version 3 leaves, for programs that can afford one: both must accept.
pub trait Judge: Send + Sync {
    /// Judges the DER of a leaf at `now`, in Unix seconds.
    ///
    /// # Errors
    /// Why it is refused.
    fn judge(&self, leaf: &[u8], role: Role, now: i64) -> Result<(), String>;
}

/// The configured CA (or several, in one file), against which leaf certificates are checked.
pub struct ChainVerifier {
    authorities: Vec<CertFacts>,
    /// Certificates may begin as late as this says.
    latest: Option<Clock>,
    second: Option<Box<dyn Judge>>,
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
        for certificate in pem::certificates(ca_pem).map_err(TrustError::Pem)? {
            let facts = cert::facts(&certificate).map_err(TrustError::Cert)?;
            if !facts.is_ca || !facts.may_sign_certificates {
                let name = facts.subject_cn.unwrap_or_default();
                return Err(TrustError::NotACa(name));
            }
            if facts.constrains_names {
                return Err(TrustError::Unusable("name constraints are not supported"));
            }
            if facts.unknown_critical {
                return Err(TrustError::Unusable("unsupported critical extension"));
            }
            authorities.push(facts);
        }
        Ok(Self {
            authorities,
            latest: None,
            second: None,
        })
    }

    /// Asks `second` too about every version 3 leaf that is accepted here.
    #[must_use]
    pub fn confirmed_by(self, second: Box<dyn Judge>) -> Self {
        Self {
            second: Some(second),
            ..self
        }
    }

    /// Judges the beginning of certificates by `latest` where that is later than the time their end
    /// is judged by: for a device that only knows that its clock is behind.
    #[must_use]
    pub fn beginning_by(self, latest: Clock) -> Self {
        Self {
            latest: Some(latest),
            ..self
        }
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
        let latest = self.latest.as_ref().map_or(now, |latest| latest().max(now));
        in_dates(facts, now, latest)?;
        let purpose = match role {
            Role::Client => facts.may_be_client,
            Role::Server => facts.may_be_server,
        };
        if !facts.may_sign || !purpose {
            return Err(VerifyError::WrongPurpose);
        }
        if facts.unknown_critical {
            return Err(VerifyError::CriticalExtension);
        }
        self.issued(facts, &parsed.signed, now, latest)?;
        if let Some(second) = self.second.as_ref().filter(|_| facts.version == 3) {
            second
                .judge(leaf, role, now)
                .map_err(VerifyError::Disputed)?;
        }
        Ok(parsed.facts)
    }

    /// Whether an authority of this name (DER), within its dates at `now`, signed an object.
    pub(crate) fn signed(&self, issuer: &[u8], signed: &der::Signed<'_>, now: i64) -> bool {
        self.authorities.iter().any(|ca| {
            ca.subject_der == issuer
                && now <= ca.not_after
                && verify_signed(&ca.spki_der, signed).is_ok()
        })
    }

    /// Checks the signature with the authorities that bear the issuer's name and are within their
    /// dates; after a CA's renewal there may be two.
    fn issued(
        &self,
        leaf: &CertFacts,
        signed: &der::Signed<'_>,
        now: i64,
        latest: i64,
    ) -> Result<(), VerifyError> {
        let mut fault = VerifyError::UnknownIssuer;
        for ca in &self.authorities {
            if ca.subject_der != leaf.issuer_der {
                continue;
            }
            let found = if in_dates(ca, now, latest).is_err() {
                VerifyError::CaOutOfDate
            } else {
                match verify_signed(&ca.spki_der, signed) {
                    Ok(()) => return Ok(()),
                    Err(SignedError::Bad | SignedError::Malformed) => VerifyError::BadSignature,
                    Err(SignedError::Unsupported) => VerifyError::UnsupportedSignature,
                }
            };
            // A CA that could be tried tells more than one that is out of date.
            if fault == VerifyError::UnknownIssuer || fault == VerifyError::CaOutOfDate {
                fault = found;
            }
        }
        Err(fault)
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
pub enum SignedError {
    /// It is not the DER of a signed object, or another part of it was signed.
    Malformed,
    /// The signature does not verify.
    Bad,
    /// An algorithm that is not accepted, or that does not fit the key.
    Unsupported,
}

/// Verifies the signature of a certificate request: `input` is its DER, `spki` the key in it, and
/// `body` the part that the caller reads names and key from, which must be what is signed.
///
/// # Errors
/// Why not.
pub fn self_signed(spki: &[u8], input: &[u8], body: &[u8]) -> Result<(), SignedError> {
    let signed = der::signed(input).ok_or(SignedError::Malformed)?;
    if signed.body.whole != body {
        return Err(SignedError::Malformed);
    }
    verify_signed(spki, &signed)
}

/// Verifies the signature of a signed object with the key of a SubjectPublicKeyInfo.
pub(crate) fn verify_signed(spki: &[u8], signed: &der::Signed<'_>) -> Result<(), SignedError> {
    let named = algorithms()
        .iter()
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == signed.algorithm.content);
    verify_any(named, spki, signed.body.whole, signed.signature)
}

/// Verifies a signature with the first of these algorithms that fits the key: several share an
/// identifier and differ in the key they want.
pub(crate) fn verify_any<'a>(
    candidates: impl IntoIterator<Item = &'a &'static dyn SignatureVerificationAlgorithm>,
    spki: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignedError> {
    let (key_type, key) = cert::public_key(spki).ok_or(SignedError::Unsupported)?;
    let algorithm = candidates
        .into_iter()
        .find(|candidate| candidate.public_key_alg_id().as_ref() == key_type)
        .ok_or(SignedError::Unsupported)?;
    algorithm
        .verify_signature(key, message, signature)
        .map_err(|_| SignedError::Bad)
}

/// The signature algorithms accepted on certificates and requests: SHA-256 or better with RSA of
/// 2048 to 8192 bits (PKCS#1 v1.5 or PSS), ECDSA on P-256 and P-384, Ed25519.
pub(crate) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    super::signatures::SIGNATURES.all
}

fn in_dates(facts: &CertFacts, now: i64, latest: i64) -> Result<(), VerifyError> {
    if latest < facts.not_before {
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
