//! PEM text, in and out: certificates, requests and private keys.
//!
//! Read by hand: the reader of `rustls-pki-types` is 5 KB more of a router's program.

use std::fmt;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::base64;

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
    Damaged(&'static str),
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
        if kind == Kind::Certificate {
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
            Kind::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
            Kind::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
            Kind::Sec1 => PrivateKeyDer::Sec1(der.into()),
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
    first(text, Kind::Request, "certificate request")
}

/// The DER of the first revocation list of a PEM text.
///
/// # Errors
/// Too long, damaged or none.
pub fn crl(text: &str) -> Result<Vec<u8>, PemError> {
    first(text, Kind::Crl, "revocation list")
}

fn first(text: &str, wanted: Kind, name: &'static str) -> Result<Vec<u8>, PemError> {
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

/// What a block holds, of the kinds that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    Request,
    Crl,
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl Kind {
    fn of(label: &str) -> Option<Self> {
        Some(match label {
            "CERTIFICATE" => Self::Certificate,
            "CERTIFICATE REQUEST" => Self::Request,
            "X509 CRL" => Self::Crl,
            "PRIVATE KEY" => Self::Pkcs8,
            "RSA PRIVATE KEY" => Self::Pkcs1,
            "EC PRIVATE KEY" => Self::Sec1,
            _ => return None,
        })
    }
}

/// The blocks of a text, without those of other kinds and what stands between them.
fn blocks(text: &str) -> Result<Vec<(Kind, Vec<u8>)>, PemError> {
    if text.len() > MAX_TEXT {
        return Err(PemError::TooLong(text.len()));
    }
    let mut found = Vec::new();
    let mut open = None;
    let mut body = String::new();
    for line in text.split(['\n', '\r']) {
        if let Some(rest) = line.strip_prefix("-----BEGIN ") {
            let label = rest.trim_end_matches(' ').strip_suffix("-----");
            let label = label.filter(|label| !label.ends_with('-'));
            let label = label.ok_or(PemError::Damaged("the first line of a block is cut"))?;
            if open.replace(label).is_some() {
                return Err(PemError::Damaged("a block begins before the last one ends"));
            }
        } else if let Some(label) = open {
            let end = line
                .strip_prefix("-----END ")
                .and_then(|rest| rest.strip_prefix(label));
            if !end.is_some_and(|rest| rest.starts_with("-----")) {
                body.push_str(line);
                continue;
            }
            if let Some(kind) = Kind::of(label) {
                body.retain(|ch| !ch.is_ascii_whitespace());
                // Padding that was left out is forgiven.
                let whole = body.len().next_multiple_of(4);
                body.extend(std::iter::repeat_n('=', whole - body.len()));
                let der = base64::decode(&body);
                found.push((kind, der.ok_or(PemError::Damaged("not base64"))?));
            }
            body.clear();
            open = None;
        }
    }
    match open {
        None => Ok(found),
        Some(_) => Err(PemError::Damaged("the last line of a block is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls_pki_types::pem::PemObject;

    /// What rustls-pki-types reads of the same text.
    fn by_pki_types(text: &str) -> Option<Vec<Vec<u8>>> {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|read| read.ok().map(|der| der.to_vec()))
            .collect()
    }

    #[test]
    fn texts_are_read_as_rustls_pki_types_reads_them() {
        let plain = encode("CERTIFICATE", &[7; 100]);
        let other = encode("DH PARAMETERS", b"p");
        for text in [
            plain.clone(),
            plain.replace('\n', "\r\n"),
            plain.replace("-----\n", "-----  \n"),
            format!("subject=x\n\n{plain}between\n{other}{plain}after"),
            plain.replacen("Bw", "B w", 1),
            plain.replacen('\n', "\n\n", 2),
            plain.replacen("Bw", "B*", 1),
            plain.replacen("-----\n", "----\n", 1),
            plain.replacen("-----\n", "------\n", 1),
            plain.replace("-----END", "----END"),
            plain.trim_end().to_owned(),
            plain.replace("-----END CERTIFICATE", "-----END X"),
            plain.replace("BwcHBw==", "BwcHBw"),
            format!("{other}{}", other.replace("DH", "X")),
        ] {
            let own = blocks(&text).ok().map(|all| {
                let ours = all
                    .into_iter()
                    .filter(|(kind, _)| *kind == Kind::Certificate);
                ours.map(|(_, der)| der).collect::<Vec<_>>()
            });
            assert_eq!(own, by_pki_types(&text), "{text}");
        }
        // Stricter than it: bits that belong to no byte, and a block within a block.
        for text in [
            plain.replace("BwcHBw==", "BwcHBx=="),
            format!("-----BEGIN CERTIFICATE-----\n{plain}"),
        ] {
            assert!(matches!(blocks(&text), Err(PemError::Damaged(_))), "{text}");
        }
    }

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
