//! What the programs need to know about a certificate, of X.509 version 1 or 3.
//!
//! Reference certificates are version 1 without extensions (pki-and-pairing.md §2.4), which
//! `webpki` does not read at all. So certificates are taken apart here, strictly. A general parser
//! would add 70 KiB to a router's agent.

use std::fmt;

use crate::serial;
use crate::time::Utc;
use crate::x509::der::{self, Tlv};
use crate::x509::extensions::Extensions;
use crate::x509::pem;

pub use super::errors::{CertError, MAX_DER};

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
    /// Whether it may be shown by who connects: no extKeyUsage, or one with clientAuth.
    pub may_be_client: bool,
    /// Whether it may be shown by who is connected to: no extKeyUsage, or one with serverAuth.
    pub may_be_server: bool,
    /// Whether it has nameConstraints, which are not supported in a CA.
    pub constrains_names: bool,
    /// Whether an extension that is not understood here is marked critical (RFC 5280 §4.2).
    pub unknown_critical: bool,
}

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
    let fields = Fields::read(signed.body.content).ok_or(CertError::Malformed)?;
    if fields.algorithm.whole != signed.algorithm.whole {
        return Err(CertError::AlgorithmMismatch);
    }
    let extensions = match fields.extensions {
        Some(list) => Extensions::read(list)?,
        None => Extensions::default(),
    };
    let version = match (fields.version, extensions.any) {
        (0, false) => 1,
        (2, _) => 3,
        _ => return Err(CertError::Version),
    };
    let (not_before, not_after) = validity(fields.validity).ok_or(CertError::Malformed)?;
    let facts = CertFacts {
        version,
        serial_hex: serial_text(fields.serial)?,
        subject_cn: single_common_name(fields.subject.content).ok_or(CertError::Malformed)?,
        subject_der: fields.subject.whole.to_vec(),
        issuer_der: fields.issuer.whole.to_vec(),
        not_before,
        not_after,
        spki_der: fields.spki.whole.to_vec(),
        key: key_kind(fields.spki.whole).ok_or(CertError::Malformed)?,
        is_ca: extensions.is_ca,
        may_sign: extensions.may_sign(),
        may_sign_certificates: extensions.may_sign_certificates(),
        may_be_client: extensions.purposes.is_none_or(|purposes| purposes.client),
        may_be_server: extensions.purposes.is_none_or(|purposes| purposes.server),
        constrains_names: extensions.constrains_names,
        unknown_critical: extensions.unknown_critical,
    };
    Ok(Parsed { facts, signed })
}

/// The fields of a TBSCertificate (RFC 5280 §4.1), in their order.
struct Fields<'a> {
    /// 0, 1 or 2 for versions 1 to 3.
    version: u8,
    serial: &'a [u8],
    algorithm: Tlv<'a>,
    issuer: Tlv<'a>,
    validity: Tlv<'a>,
    subject: Tlv<'a>,
    spki: Tlv<'a>,
    /// Content of the list of extensions.
    extensions: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(content: &'a [u8]) -> Option<Self> {
        let mut rest = content;
        let version = match der::read(rest)? {
            (explicit, behind) if explicit.tag == 0xa0 => {
                rest = behind;
                let number = der::only(explicit.content, der::INTEGER)?;
                // Version 1 is the default and therefore not written (X.690 §11.5).
                match number.content {
                    [version @ 1..=2] => *version,
                    _ => return None,
                }
            }
            _ => 0,
        };
        let serial = der::next(&mut rest, der::INTEGER)?.content;
        let algorithm = der::next(&mut rest, der::SEQUENCE)?;
        let issuer = der::next(&mut rest, der::SEQUENCE)?;
        let validity = der::next(&mut rest, der::SEQUENCE)?;
        let subject = der::next(&mut rest, der::SEQUENCE)?;
        let spki = der::next(&mut rest, der::SEQUENCE)?;
        let extensions = if rest.is_empty() {
            None
        } else {
            // Unique identifiers are of no use to anybody and are not accepted.
            let explicit = der::only(rest, 0xa3)?;
            Some(der::only(explicit.content, der::SEQUENCE)?.content)
        };
        Some(Self {
            version,
            serial,
            algorithm,
            issuer,
            validity,
            subject,
            spki,
            extensions,
        })
    }
}

fn validity(field: Tlv<'_>) -> Option<(i64, i64)> {
    let (first, rest) = der::read(field.content)?;
    let (second, rest) = der::read(rest)?;
    rest.is_empty().then_some(())?;
    Some((instant(first)?, instant(second)?))
}

/// UTCTime `YYMMDDHHMMSSZ` (1950 to 2049) or GeneralizedTime `YYYYMMDDHHMMSSZ`, in Unix seconds.
/// No certificate is older than the epoch, nor begins or ends in a leap second.
fn instant(time: Tlv<'_>) -> Option<i64> {
    let text = std::str::from_utf8(time.content).ok()?;
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let full = match (time.tag, digits.len()) {
        (der::UTC_TIME, 12) if digits.as_bytes() >= b"50".as_slice() => format!("19{digits}"),
        (der::UTC_TIME, 12) => format!("20{digits}"),
        (der::GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |range: std::ops::Range<usize>| full.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(8..10)?, part(10..12)?, part(12..14)?);
    if second == "60" {
        return None;
    }
    Utc::parse_iso(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
        .map(|time| time.0)
        .filter(|seconds| *seconds >= 0)
}

/// The one common name of a Name, given its DER; `None` for none, several, or one that is not
/// text.
///
/// # Errors
/// Damaged DER.
pub fn common_name(name: &[u8]) -> Result<Option<String>, CertError> {
    let name = der::only(name, der::SEQUENCE).ok_or(CertError::Malformed)?;
    single_common_name(name.content).ok_or(CertError::Malformed)
}

/// The one common name of a subject, given the content of its Name: `Some(None)` for none,
/// several, or one that is not text; `None` for damaged DER.
#[expect(
    clippy::option_option,
    reason = "damaged and absent are different answers"
)]
fn single_common_name(name: &[u8]) -> Option<Option<String>> {
    let mut count = 0;
    let mut text = None;
    let mut rest = name;
    while !rest.is_empty() {
        let mut set = der::next(&mut rest, der::SET)?.content;
        while !set.is_empty() {
            let mut pair = der::next(&mut set, der::SEQUENCE)?.content;
            let oid = der::next(&mut pair, der::OID)?.content;
            let (value, behind) = der::read(pair)?;
            behind.is_empty().then_some(())?;
            if oid == oid::COMMON_NAME {
                count += 1;
                text = directory_text(value);
            }
        }
    }
    Some(if count == 1 { text } else { None })
}

/// A string of one of the kinds that are (a subset of) UTF-8.
fn directory_text(value: Tlv<'_>) -> Option<String> {
    match value.tag {
        // UTF8String, NumericString, PrintableString, IA5String
        0x0c | 0x12 | 0x13 | 0x16 => std::str::from_utf8(value.content).ok().map(str::to_owned),
        _ => None,
    }
}

/// Content of the AlgorithmIdentifier and bits of the key in a SubjectPublicKeyInfo; `None` for
/// damaged DER.
pub fn public_key(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut inside = der::only(spki, der::SEQUENCE)?.content;
    let algorithm = der::next(&mut inside, der::SEQUENCE)?.content;
    match der::only(inside, der::BIT_STRING)?.content.split_first()? {
        (0, key) => Some((algorithm, key)),
        _ => None,
    }
}

/// Kind of the key in a SubjectPublicKeyInfo; `None` for damaged DER.
pub fn key_kind(spki: &[u8]) -> Option<KeyKind> {
    let mut inside = der::only(spki, der::SEQUENCE)?.content;
    let mut algorithm = der::next(&mut inside, der::SEQUENCE)?.content;
    let bits = der::only(inside, der::BIT_STRING)?.content;
    let oid = der::next(&mut algorithm, der::OID)?.content;
    Some(match oid {
        oid::RSA => match rsa_bits(bits) {
            Some(bits) => KeyKind::Rsa { bits },
            None => KeyKind::Other("damaged RSA key".to_owned()),
        },
        oid::EC => match der::only(algorithm, der::OID).map(|curve| curve.content) {
            Some(oid::P256) => KeyKind::EcP256,
            Some(oid::P384) => KeyKind::EcP384,
            Some(curve) => KeyKind::Other(format!("EC key on curve {}", der::dotted(curve))),
            None => KeyKind::Other("EC key without a named curve".to_owned()),
        },
        oid::ED25519 => KeyKind::Ed25519,
        other => KeyKind::Other(format!("key of type {}", der::dotted(other))),
    })
}

/// Bits of the modulus in the BIT STRING of an RSA key.
fn rsa_bits(bits: &[u8]) -> Option<usize> {
    let (0, key) = bits.split_first()? else {
        return None;
    };
    let mut key = der::only(key, der::SEQUENCE)?.content;
    let modulus = der::next(&mut key, der::INTEGER)?.content;
    der::only(key, der::INTEGER)?;
    Some(modulus_bits(modulus))
}

/// Object identifiers, as they are encoded.
mod oid {
    pub(super) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    pub(super) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    pub(super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    pub(super) const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
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

/// Most bytes of a serial number (RFC 5280 §4.1.2.2).
const MAX_SERIAL: usize = 20;

fn serial_text(integer: &[u8]) -> Result<String, CertError> {
    let negative = integer.first().is_none_or(|byte| byte & 0x80 != 0);
    // A leading zero that keeps it positive may come on top.
    let magnitude = integer.strip_prefix(&[0]).unwrap_or(integer);
    if negative || magnitude.len() > MAX_SERIAL {
        return Err(CertError::Serial);
    }
    Ok(serial::live_hex(integer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_have_at_most_twenty_bytes_and_no_sign() {
        assert_eq!(serial_text(&[0x7f; 20]).unwrap(), "7f".repeat(20));
        let padded = [&[0][..], &[0xff; 20]].concat();
        assert_eq!(serial_text(&padded).unwrap(), "ff".repeat(20));
        for refused in [&[][..], &[0x80], &[0xff; 20], &[0x7f; 21], &[0; 22]] {
            assert_eq!(serial_text(refused), Err(CertError::Serial), "{refused:?}");
        }
    }

    #[test]
    fn length_is_bounded_before_anything_is_read() {
        assert_eq!(facts(&vec![0; MAX_DER]), Err(CertError::Malformed));
        let length = MAX_DER + 1;
        assert_eq!(facts(&vec![0; length]), Err(CertError::TooLong(length)));
    }
}
