//! What the programs need to know about a certificate, of X.509 version 1 or 3.
//!
//! Reference certificates are version 1 without extensions (pki-and-pairing.md §2.4), which
//! `webpki` does not read at all. The envelope is taken apart here, strictly; fields inside are
//! read with `x509-parser`.

use std::fmt;

use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::{der, pem, serial};

/// Longest certificate that is read, in bytes.
pub const MAX_DER: usize = 16_384;

/// The kind and strength of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with a modulus of this many bits.
    Rsa {
        /// Bits of the modulus.
        bits: usize,
    },
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// Ed25519.
    Ed25519,
    /// Anything else, by its object identifier or curve.
    Other(String),
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::EcP256 => f.write_str("ECDSA P-256"),
            Self::EcP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other(name) => write!(f, "{name}"),
        }
    }
}

/// Facts read from one certificate. Nothing here has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFacts {
    /// X.509 version: 1 or 3.
    pub version: u8,
    /// Live serial: lower-case hex, two digits per byte ([`serial::live_hex`]).
    pub serial_hex: String,
    /// The common name, when the subject has exactly one that is text.
    pub subject_cn: Option<String>,
    /// DER of the subject.
    pub subject_der: Vec<u8>,
    /// DER of the issuer.
    pub issuer_der: Vec<u8>,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// DER of the SubjectPublicKeyInfo.
    pub spki_der: Vec<u8>,
    /// Kind of the public key.
    pub key: KeyKind,
    /// Whether basicConstraints says CA:TRUE.
    pub is_ca: bool,
    /// Whether the key may sign handshakes: no keyUsage, or one with digitalSignature.
    pub may_sign: bool,
    /// Whether the key may sign certificates: no keyUsage, or one with keyCertSign.
    pub may_sign_certificates: bool,
}

/// Why a certificate could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertError {
    /// Not exactly one PEM certificate where one is wanted.
    Pem(pem::PemError),
    /// Longer than [`MAX_DER`].
    TooLong(usize),
    /// Not DER of a certificate, or bytes left over.
    Malformed,
    /// Neither version 1 nor 3, or extensions in version 1.
    Version,
    /// The algorithm inside the signed part differs from the one outside.
    AlgorithmMismatch,
    /// Serial empty, negative or longer than 20 bytes.
    Serial,
    /// An extension that matters here is damaged or given twice.
    Extension,
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(error) => error.fmt(f),
            Self::TooLong(length) => write!(f, "certificate of {length} bytes (limit {MAX_DER})"),
            Self::Malformed => f.write_str("not a DER certificate"),
            Self::Version => f.write_str("unsupported certificate version"),
            Self::AlgorithmMismatch => f.write_str("inner and outer signature algorithms differ"),
            Self::Serial => f.write_str("serial number empty, negative or longer than 20 bytes"),
            Self::Extension => f.write_str("damaged or repeated extension"),
        }
    }
}

impl std::error::Error for CertError {}

/// Reads the facts of a DER certificate.
///
/// # Errors
/// See [`CertError`]; everything that is not one well-formed certificate is refused.
pub fn facts(der: &[u8]) -> Result<CertFacts, CertError> {
    parse(der).map(|parsed| parsed.facts)
}

/// The DER of the first certificate of a PEM text.
///
/// # Errors
/// No or damaged PEM.
pub fn from_pem(text: &str) -> Result<Vec<u8>, CertError> {
    let all = pem::certificates(text).map_err(CertError::Pem)?;
    all.into_iter()
        .next()
        .map(|der| der.to_vec())
        .ok_or(CertError::Malformed)
}

/// Facts of the first certificate of a PEM text.
///
/// # Errors
/// No or damaged PEM, or no readable certificate in it.
pub fn facts_from_pem(text: &str) -> Result<CertFacts, CertError> {
    facts(&from_pem(text)?)
}

/// A certificate taken apart, for verification.
pub(crate) struct Parsed<'a> {
    pub(crate) facts: CertFacts,
    pub(crate) signed: der::Signed<'a>,
}

pub(crate) fn parse(input: &[u8]) -> Result<Parsed<'_>, CertError> {
    if input.len() > MAX_DER {
        return Err(CertError::TooLong(input.len()));
    }
    let signed = der::signed(input).ok_or(CertError::Malformed)?;
    let (rest, certificate) = X509Certificate::from_der(input).map_err(|_| CertError::Malformed)?;
    let tbs = &certificate.tbs_certificate;
    // x509-parser tolerates bytes behind the last field it knows; the lengths show them.
    if !rest.is_empty() || tbs.as_ref().len() != signed.body.whole.len() {
        return Err(CertError::Malformed);
    }
    if inner_algorithm(signed.body.content) != Some(signed.algorithm.whole) {
        return Err(CertError::AlgorithmMismatch);
    }
    let version = match (tbs.version.0, tbs.extensions().is_empty()) {
        (0, true) => 1,
        (2, _) => 3,
        _ => return Err(CertError::Version),
    };
    let constraints = tbs.basic_constraints().map_err(|_| CertError::Extension)?;
    let usage = tbs.key_usage().map_err(|_| CertError::Extension)?;
    let facts = CertFacts {
        version,
        serial_hex: serial_text(tbs.raw_serial())?,
        subject_cn: single_common_name(&tbs.subject),
        subject_der: tbs.subject.as_raw().to_vec(),
        issuer_der: tbs.issuer.as_raw().to_vec(),
        not_before: tbs.validity.not_before.timestamp(),
        not_after: tbs.validity.not_after.timestamp(),
        spki_der: tbs.subject_pki.raw.to_vec(),
        key: key_kind(&tbs.subject_pki),
        is_ca: constraints.is_some_and(|found| found.value.ca),
        may_sign: usage
            .as_ref()
            .is_none_or(|found| found.value.digital_signature()),
        may_sign_certificates: usage.is_none_or(|found| found.value.key_cert_sign()),
    };
    Ok(Parsed { facts, signed })
}

/// The one common name of a subject; `None` for none, several, or one that is not text.
pub(crate) fn single_common_name(name: &X509Name<'_>) -> Option<String> {
    let mut all = name.iter_common_name();
    match (all.next(), all.next()) {
        (Some(only), None) => only.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

pub(crate) fn key_kind(spki: &SubjectPublicKeyInfo<'_>) -> KeyKind {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        return match spki.parsed() {
            Ok(PublicKey::RSA(key)) => KeyKind::Rsa {
                bits: modulus_bits(key.modulus),
            },
            _ => KeyKind::Other("damaged RSA key".to_owned()),
        };
    }
    if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.clone().oid().ok());
        return match curve {
            Some(curve) if curve == oid::OID_EC_P256 => KeyKind::EcP256,
            Some(curve) if curve == oid::OID_NIST_EC_P384 => KeyKind::EcP384,
            Some(curve) => KeyKind::Other(format!("EC key on curve {curve}")),
            None => KeyKind::Other("EC key without a named curve".to_owned()),
        };
    }
    if *algorithm == oid::OID_SIG_ED25519 {
        return KeyKind::Ed25519;
    }
    KeyKind::Other(format!("key of type {algorithm}"))
}

fn modulus_bits(modulus: &[u8]) -> usize {
    let mut bytes = modulus;
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    match bytes.first() {
        Some(top) => bytes.len() * 8 - top.leading_zeros() as usize,
        None => 0,
    }
}

fn serial_text(integer: &[u8]) -> Result<String, CertError> {
    let negative = integer.first().is_none_or(|byte| byte & 0x80 != 0);
    // Twenty bytes of number; a leading zero that keeps it positive may come on top.
    if negative || integer.len() > 21 {
        return Err(CertError::Serial);
    }
    Ok(serial::live_hex(integer))
}

/// The algorithm identifier inside the signed part: behind the version (if given) and the serial.
fn inner_algorithm(tbs: &[u8]) -> Option<&[u8]> {
    let (first, rest) = der::read(tbs)?;
    let rest = if first.tag == 0xa0 {
        der::read(rest)?.1
    } else {
        rest
    };
    Some(der::read(rest)?.0.whole)
}
