//! PEM text, in and out: certificates, requests and private keys.
//!
//! Reading goes through `rustls-pki-types`; this module adds bounds and messages that say what is
//! wrong with the file.

use std::fmt;

use crate::base64;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Longest PEM text that is read, in bytes.
pub const MAX_TEXT: usize = 65_536;
/// Most certificates read from one file.
pub const MAX_CERTIFICATES: usize = 16;

/// Why PEM text was refused. `Display` gives the fault without naming a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemError {
    /// Longer than [`MAX_TEXT`].
    TooLong(usize),
    /// Not PEM at all, or damaged; the text says where.
    Damaged(String),
    /// No block of the wanted kind.
    Missing(&'static str),
    /// More certificates than [`MAX_CERTIFICATES`].
    TooMany,
    /// The private key is protected by a passphrase.
    Encrypted,
    /// Several private keys in one file.
    SeveralKeys,
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "PEM text of {length} bytes (limit {MAX_TEXT})"),
            Self::Damaged(why) => write!(f, "damaged PEM: {why}"),
            Self::Missing(kind) => write!(f, "no PEM block of a {kind}"),
            Self::TooMany => write!(f, "more than {MAX_CERTIFICATES} certificates"),
            Self::Encrypted => write!(
                f,
                "the private key is encrypted; store it without passphrase"
            ),
            Self::SeveralKeys => write!(f, "more than one private key"),
        }
    }
}

impl std::error::Error for PemError {}

/// All certificates of a PEM text, in order; at least one.
///
/// # Errors
/// Too long, damaged, none or too many.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut found = Vec::new();
    for (kind, der) in blocks(text)? {
        if kind == SectionKind::Certificate {
            if found.len() == MAX_CERTIFICATES {
                return Err(PemError::TooMany);
            }
            found.push(CertificateDer::from(der));
        }
    }
    if found.is_empty() {
        Err(PemError::Missing("certificate"))
    } else {
        Ok(found)
    }
}

/// The one private key of a PEM text: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// Too long, damaged, encrypted, none or several.
pub fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, PemError> {
    let encrypted = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENC"];
    if text
        .lines()
        .any(|line| encrypted.iter().any(|mark| line.starts_with(mark)))
    {
        return Err(PemError::Encrypted);
    }
    let mut found = None;
    for (kind, der) in blocks(text)? {
        let key = match kind {
            SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(der.into()),
            SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(der.into()),
            SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(der.into()),
            _ => continue,
        };
        if found.replace(key).is_some() {
            return Err(PemError::SeveralKeys);
        }
    }
    found.ok_or(PemError::Missing("private key"))
}

/// The DER of the first certificate request of a PEM text.
///
/// # Errors
/// Too long, damaged or none.
pub fn request(text: &str) -> Result<Vec<u8>, PemError> {
    first(text, SectionKind::Csr, "certificate request")
}

/// The DER of the first revocation list of a PEM text.
///
/// # Errors
/// Too long, damaged or none.
pub fn crl(text: &str) -> Result<Vec<u8>, PemError> {
    first(text, SectionKind::Crl, "revocation list")
}

fn first(text: &str, wanted: SectionKind, name: &'static str) -> Result<Vec<u8>, PemError> {
    blocks(text)?
        .into_iter()
        .find_map(|(kind, der)| (kind == wanted).then_some(der))
        .ok_or(PemError::Missing(name))
}

/// PEM text of one block: lines of 64 characters, LF line ends, final newline — the form OpenSSL
/// writes, which matters because the pairing code covers the text.
pub fn encode(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    // 48 bytes give one line of 64 characters.
    for line in der.chunks(48) {
        text.push_str(&base64::encode(line));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

fn blocks(text: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, PemError> {
    if text.len() > MAX_TEXT {
        return Err(PemError::TooLong(text.len()));
    }
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes())
        .map(|block| block.map_err(|error| PemError::Damaged(error.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            let text = encode("CERTIFICATE", &der);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            let read = certificates(&text).unwrap();
            prop_assert_eq!(read[0].as_ref(), &der[..]);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,400}") {
            let _ = certificates(&text);
            let _ = private_key(&text);
            let _ = request(&text);
        }
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(certificates("hello"), Err(PemError::Missing("certificate")));
        let key = encode("PRIVATE KEY", b"x");
        assert_eq!(
            private_key(&format!("{key}{key}")).unwrap_err(),
            PemError::SeveralKeys
        );
        let locked = encode("ENCRYPTED PRIVATE KEY", b"x");
        assert_eq!(private_key(&locked).unwrap_err(), PemError::Encrypted);
        assert!(matches!(
            certificates("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"),
            Err(PemError::Damaged(_))
        ));
        assert!(matches!(
            certificates(&"x".repeat(70_000)),
            Err(PemError::TooLong(70_000))
        ));
        let many = encode("CERTIFICATE", b"x").repeat(17);
        assert_eq!(certificates(&many), Err(PemError::TooMany));
    }
}
