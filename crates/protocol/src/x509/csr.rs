//! Certificate requests: made by agents, checked by the dispatcher before it signs.
//!
//! The reference checks the text that OpenSSL prints, in which a crafted subject can pretend
//! anything (pki-and-pairing.md §3). Here only decoded ASN.1 counts.

use std::fmt;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::x509::cert::{self, KeyKind};
use crate::x509::keys::PrivateKey;
use crate::x509::verify::{self, SignedError};
use crate::x509::{der, pem};

/// Longest request text, in bytes, as in the reference.
pub const MAX_TEXT: usize = 10_240;
/// Longest common name that is signed, in bytes.
pub const MAX_CN: usize = 255;

const HEADER: &str = "-----BEGIN CERTIFICATE REQUEST-----";

/// What a request that passed [`check`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrFacts {
    /// The one common name.
    pub cn: String,
    /// DER of the SubjectPublicKeyInfo to be certified.
    pub spki_der: Vec<u8>,
    /// Kind of that key.
    pub key: KeyKind,
}

/// Why a request cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsrError {
    /// No text.
    Empty,
    /// Longer than [`MAX_TEXT`].
    TooLong(usize),
    /// The text does not begin with the PEM header of a request.
    Header,
    /// Not the text OpenSSL writes for this request: other line lengths, blanks, something behind.
    NotPlain,
    /// Damaged PEM.
    Pem(pem::PemError),
    /// Not a DER certificate request.
    Malformed,
    /// Self-signed with MD2, MD4, MD5 or SHA-1; the name.
    WeakSignature(&'static str),
    /// Self-signed with another algorithm that is not accepted, by object identifier.
    UnsupportedSignature(String),
    /// RSA key too small.
    TooSmall(usize),
    /// A kind of key that is not accepted.
    UnsupportedKey(String),
    /// The self-signature does not verify: whoever sent this does not hold the key.
    BadSignature,
    /// None or several common names, or one that is empty, too long or has control characters.
    CommonName(&'static str),
}

impl fmt::Display for CsrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("CSR is empty"),
            Self::TooLong(length) => write!(f, "CSR too large ({length} bytes, limit {MAX_TEXT})"),
            Self::Header => write!(f, "CSR does not begin with '{HEADER}'"),
            Self::NotPlain => f.write_str("CSR text is not plain PEM as OpenSSL writes it"),
            Self::Pem(error) => write!(f, "CSR: {error}"),
            Self::Malformed => f.write_str("CSR is not a DER certificate request"),
            Self::WeakSignature(name) => {
                write!(f, "CSR is signed with {name}; SHA-256 or better is needed")
            }
            Self::UnsupportedSignature(oid) => {
                write!(f, "CSR is signed with an unsupported algorithm ({oid})")
            }
            Self::TooSmall(bits) => {
                write!(
                    f,
                    "CSR public key too small (RSA {bits} bits, need >= 2048)"
                )
            }
            Self::UnsupportedKey(kind) => write!(
                f,
                "CSR has an unsupported {kind} (RSA >= 2048, P-256, P-384 and Ed25519 are accepted)"
            ),
            Self::BadSignature => f.write_str("CSR self-signature does not verify"),
            Self::CommonName(fault) => write!(f, "CSR subject: {fault}"),
        }
    }
}

impl std::error::Error for CsrError {}

/// Makes a request: subject CN only, no extensions, SHA-256 (SHA-384 for P-384). PEM with LF line
/// ends and final newline; the pairing code covers exactly this text.
///
/// # Errors
/// The key refuses to sign, or the name cannot be put in a subject.
pub fn create(key: &PrivateKey, cn: &str) -> Result<String, CsrError> {
    if cn.is_empty() || cn.len() > MAX_CN {
        return Err(CsrError::CommonName("common name empty or too long"));
    }
    let body = der::write(
        der::SEQUENCE,
        &[
            VERSION_0,
            &subject(cn),
            key.spki_der(),
            // No attributes: the set is there, and empty.
            &[0xa0, 0x00],
        ]
        .concat(),
    );
    let signature = key.sign(&body).ok_or(CsrError::BadSignature)?;
    let bits = [[0].as_slice(), &signature].concat();
    let request = [
        body,
        signature_algorithm(key.kind())?.to_vec(),
        der::write(der::BIT_STRING, &bits),
    ]
    .concat();
    Ok(pem::encode(
        "CERTIFICATE REQUEST",
        &der::write(der::SEQUENCE, &request),
    ))
}

/// A Name of one common name, as UTF8String.
fn subject(cn: &str) -> Vec<u8> {
    let oid = der::write(der::OID, &[0x55, 0x04, 0x03]);
    let pair = [oid, der::write(der::UTF8_STRING, cn.as_bytes())].concat();
    let set = der::write(der::SET, &der::write(der::SEQUENCE, &pair));
    der::write(der::SEQUENCE, &set)
}

/// DER of INTEGER 0.
const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];

/// The AlgorithmIdentifier of what [`PrivateKey::sign`] makes (RFC 8017, 5758, 8410).
fn signature_algorithm(kind: &KeyKind) -> Result<&'static [u8], CsrError> {
    Ok(match kind {
        KeyKind::Rsa { .. } => &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05,
            0x00,
        ],
        KeyKind::EcP256 => &[
            0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
        ],
        KeyKind::EcP384 => &[
            0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03,
        ],
        KeyKind::Ed25519 => &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
        KeyKind::Other(name) => return Err(CsrError::UnsupportedKey(name.clone())),
    })
}

/// Checks the text of a request by pki-and-pairing.md §3, by decoding: size, header at offset 0,
/// algorithms, key strength, self-signature, exactly one common name.
///
/// # Errors
/// The first fault found.
pub fn check(text: &str) -> Result<CsrFacts, CsrError> {
    if text.is_empty() {
        return Err(CsrError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(CsrError::TooLong(text.len()));
    }
    if !text.starts_with(HEADER) {
        return Err(CsrError::Header);
    }
    let der = pem::request(text).map_err(CsrError::Pem)?;
    // The pairing code covers the text. Blanks or lines that mean nothing would let somebody in
    // between try a million texts for one signature; so one request has one text.
    let plain = pem::encode("CERTIFICATE REQUEST", &der);
    if text != plain && Some(text) != plain.strip_suffix('\n') {
        return Err(CsrError::NotPlain);
    }
    check_der(&der)
}

/// Checks the DER of a request; see [`check`].
///
/// # Errors
/// The first fault found.
pub fn check_der(input: &[u8]) -> Result<CsrFacts, CsrError> {
    let signed = der::signed(input).ok_or(CsrError::Malformed)?;
    let (rest, request) =
        X509CertificationRequest::from_der(input).map_err(|_| CsrError::Malformed)?;
    let info = &request.certification_request_info;
    if !rest.is_empty() || info.version.0 != 0 || info.raw.len() != signed.body.whole.len() {
        return Err(CsrError::Malformed);
    }
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    if let Some(name) = weak(&algorithm) {
        return Err(CsrError::WeakSignature(name));
    }
    let key = cert::key_kind(info.subject_pki.raw).ok_or(CsrError::Malformed)?;
    match &key {
        KeyKind::Rsa { bits } if *bits < 2048 => return Err(CsrError::TooSmall(*bits)),
        KeyKind::Other(kind) => return Err(CsrError::UnsupportedKey(kind.clone())),
        _ => {}
    }
    match verify::verify_signed(info.subject_pki.raw, &signed) {
        Ok(()) => {}
        Err(SignedError::Bad) => return Err(CsrError::BadSignature),
        Err(SignedError::Unsupported) => return Err(CsrError::UnsupportedSignature(algorithm)),
    }
    let names = info.subject.iter_common_name().count();
    if names != 1 {
        return Err(CsrError::CommonName("exactly one common name is needed"));
    }
    let subject = der::only(info.subject.as_raw(), der::SEQUENCE).ok_or(CsrError::Malformed)?;
    let cn = cert::single_common_name(subject.content)
        .flatten()
        .ok_or(CsrError::CommonName("the common name is not text"))?;
    if cn.is_empty() || cn.len() > MAX_CN || cn.chars().any(char::is_control) {
        return Err(CsrError::CommonName(
            "common name empty, too long or with control characters",
        ));
    }
    Ok(CsrFacts {
        cn,
        spki_der: info.subject_pki.raw.to_vec(),
        key,
    })
}

fn weak(oid: &str) -> Option<&'static str> {
    match oid {
        "1.2.840.113549.1.1.2" => Some("MD2"),
        "1.2.840.113549.1.1.3" => Some("MD4"),
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => {
            Some("SHA-1")
        }
        _ => None,
    }
}

/// A [`PrivateKey`] in the shape `rcgen` signs with, for requests and for the dispatcher's CA.
pub struct RcgenKey<'a> {
    key: &'a PrivateKey,
    public: RcgenPublicKey,
}

impl<'a> RcgenKey<'a> {
    /// Wraps a key.
    ///
    /// # Errors
    /// A kind of key that cannot sign certificates.
    pub fn new(key: &'a PrivateKey) -> Result<Self, CsrError> {
        Ok(Self {
            key,
            public: RcgenPublicKey::new(key.spki_der(), key.kind())?,
        })
    }
}

impl rcgen::PublicKeyData for RcgenKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for RcgenKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

/// A public key in the shape `rcgen` certifies.
pub struct RcgenPublicKey {
    bits: Vec<u8>,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

impl RcgenPublicKey {
    /// Takes the key out of a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// A kind of key that is not accepted.
    pub fn new(spki_der: &[u8], kind: &KeyKind) -> Result<Self, CsrError> {
        let algorithm = match kind {
            KeyKind::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
            KeyKind::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
            KeyKind::Other(name) => return Err(CsrError::UnsupportedKey(name.clone())),
        };
        let bits = der::read(spki_der)
            .and_then(|(outer, _)| der::read(outer.content))
            .and_then(|(_, rest)| der::read(rest))
            .and_then(|(bits, _)| bits.content.split_first())
            .map(|(_, bits)| bits.to_vec())
            .ok_or(CsrError::Malformed)?;
        Ok(Self { bits, algorithm })
    }
}

impl rcgen::PublicKeyData for RcgenPublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::keys::{KeyType, generate};
    use proptest::prelude::*;

    #[test]
    fn what_we_make_passes_our_check() {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519] {
            let key = PrivateKey::from_pem(&generate(kind).unwrap()).unwrap();
            let text = create(&key, "router1.example").unwrap();
            assert!(text.ends_with("-----END CERTIFICATE REQUEST-----\n"));
            let facts = check(&text).unwrap();
            assert_eq!(facts.cn, "router1.example");
            assert_eq!(facts.spki_der, key.spki_der());
        }
    }

    #[test]
    fn text_around_the_request_is_refused() {
        let key = PrivateKey::from_pem(&generate(KeyType::EcdsaP256).unwrap()).unwrap();
        let text = create(&key, "a").unwrap();
        assert_eq!(check(&format!(" {text}")), Err(CsrError::Header));
        assert_eq!(
            check(&text.replace("CERTIFICATE REQ", "NEW CERTIFICATE REQ")),
            Err(CsrError::Header)
        );
        // One request has one text, or a million texts would share one signature.
        assert!(check(text.trim_end()).is_ok());
        for other in [
            format!("{text}x"),
            format!("{text}\n"),
            format!("{text} "),
            text.replace('\n', "\r\n"),
            text.replacen("Q==\n", "Q==\n\n", 1)
                .replacen('\n', "\n ", 1),
        ] {
            assert!(check(&other).is_err(), "{other:?}");
        }
        assert_eq!(check(""), Err(CsrError::Empty));
        assert_eq!(
            check(&format!("{text}{}", " ".repeat(MAX_TEXT))).unwrap_err(),
            CsrError::TooLong(MAX_TEXT + text.len())
        );
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = PrivateKey::from_pem(&generate(KeyType::EcdsaP256).unwrap()).unwrap();
            let mut bytes = pem::request(&create(&key, "router1").unwrap()).unwrap();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(check_der(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check_der(&bytes);
            let _ = cert::facts(&bytes);
        }
    }
}
