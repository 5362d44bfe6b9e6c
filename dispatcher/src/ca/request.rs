//! Certificate requests as the CA sees them: checked before they are signed, and given to `rcgen`.
//!
//! The reference checks the text that OpenSSL prints, in which a crafted subject can pretend
//! anything (pki-and-pairing.md §3). Here only decoded ASN.1 counts.

use std::fmt;

use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::x509::cert::{self, KeyKind};
use ctrl_exec_protocol::x509::csr::MAX_CN;
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_protocol::x509::pem;
use ctrl_exec_protocol::x509::verify::{self, SignedError};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Longest request text, in bytes, as in the reference.
pub const MAX_TEXT: usize = 10_240;

const HEADER: &str = "-----BEGIN CERTIFICATE REQUEST-----";

/// What a request that passed [`check`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The one common name.
    pub cn: String,
    /// DER of the SubjectPublicKeyInfo to be certified.
    pub spki_der: Vec<u8>,
    /// Kind of that key.
    pub key: KeyKind,
}

/// Why a request cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
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
    /// An RSA key whose public exponent is below 65537, with which padding faults forge.
    SmallExponent,
    /// The self-signature does not verify: whoever sent this does not hold the key.
    BadSignature,
    /// None or several common names, or one that is empty, too long or has control characters.
    CommonName(&'static str),
}

impl fmt::Display for RequestError {
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
            Self::SmallExponent => {
                f.write_str("CSR has an RSA key with a public exponent below 65537")
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

impl std::error::Error for RequestError {}

/// Checks the text of a request by pki-and-pairing.md §3, by decoding: size, header at offset 0,
/// algorithms, key strength, self-signature, exactly one common name.
///
/// # Errors
/// The first fault found.
pub fn check(text: &str) -> Result<Request, RequestError> {
    if text.is_empty() {
        return Err(RequestError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(RequestError::TooLong(text.len()));
    }
    if !text.starts_with(HEADER) {
        return Err(RequestError::Header);
    }
    let der = pem::request(text).map_err(RequestError::Pem)?;
    // The pairing code covers the text. Blanks or lines that mean nothing would let somebody in
    // between try a million texts for one signature; so one request has one text.
    let plain = pem::encode("CERTIFICATE REQUEST", &der);
    if text != plain && Some(text) != plain.strip_suffix('\n') {
        return Err(RequestError::NotPlain);
    }
    check_der(&der)
}

/// Checks the DER of a request; see [`check`].
///
/// # Errors
/// The first fault found.
pub fn check_der(input: &[u8]) -> Result<Request, RequestError> {
    let (rest, request) =
        X509CertificationRequest::from_der(input).map_err(|_| RequestError::Malformed)?;
    let info = &request.certification_request_info;
    if !rest.is_empty() || info.version.0 != 0 {
        return Err(RequestError::Malformed);
    }
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    if let Some(name) = weak(&algorithm) {
        return Err(RequestError::WeakSignature(name));
    }
    let key = cert::key_kind(info.subject_pki.raw).ok_or(RequestError::Malformed)?;
    match &key {
        KeyKind::Rsa { bits } if *bits < 2048 => return Err(RequestError::TooSmall(*bits)),
        KeyKind::Other(kind) => return Err(RequestError::UnsupportedKey(kind.clone())),
        _ => {}
    }
    if let (KeyKind::Rsa { .. }, Ok(PublicKey::RSA(rsa))) = (&key, info.subject_pki.parsed()) {
        // What does not fit into 64 bits is large enough.
        if rsa.try_exponent().is_ok_and(|exponent| exponent < 65_537) {
            return Err(RequestError::SmallExponent);
        }
    }
    match verify::self_signed(info.subject_pki.raw, input, info.raw) {
        Ok(()) => {}
        Err(SignedError::Malformed) => return Err(RequestError::Malformed),
        Err(SignedError::Bad) => return Err(RequestError::BadSignature),
        Err(SignedError::Unsupported) => return Err(RequestError::UnsupportedSignature(algorithm)),
    }
    let names = info.subject.iter_common_name().count();
    if names != 1 {
        return Err(RequestError::CommonName(
            "exactly one common name is needed",
        ));
    }
    let cn = cert::common_name(info.subject.as_raw())
        .map_err(|_| RequestError::Malformed)?
        .ok_or(RequestError::CommonName("the common name is not text"))?;
    // A name that does not show as it is written can pass for another one on an operator's screen:
    // controls, bidirectional and invisible characters.
    if cn.is_empty() || cn.len() > MAX_CN || Untrusted::new(&cn).to_string() != cn {
        return Err(RequestError::CommonName(
            "common name empty, too long or with control characters",
        ));
    }
    Ok(Request {
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
    pub fn new(key: &'a PrivateKey) -> Result<Self, RequestError> {
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
    pub fn new(spki_der: &[u8], kind: &KeyKind) -> Result<Self, RequestError> {
        let algorithm = match kind {
            KeyKind::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
            KeyKind::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
            KeyKind::Other(name) => return Err(RequestError::UnsupportedKey(name.clone())),
        };
        let (_, bits) = cert::public_key(spki_der).ok_or(RequestError::Malformed)?;
        let bits = bits.to_vec();
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
    use ctrl_exec_protocol::x509::csr::create;
    use ctrl_exec_protocol::x509::keys::{KeyType, generate};
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
        assert_eq!(check(&format!(" {text}")), Err(RequestError::Header));
        assert_eq!(
            check(&text.replace("CERTIFICATE REQ", "NEW CERTIFICATE REQ")),
            Err(RequestError::Header)
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
        assert_eq!(check(""), Err(RequestError::Empty));
        assert_eq!(
            check(&format!("{text}{}", " ".repeat(MAX_TEXT))).unwrap_err(),
            RequestError::TooLong(MAX_TEXT + text.len())
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
