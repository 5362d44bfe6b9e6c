//! Certificate requests, as agents make them. Checking them is the business of the CA, in the
//! dispatcher.

use std::fmt;

use crate::x509::cert::KeyKind;
use crate::x509::keys::PrivateKey;
use crate::x509::{der, pem};

/// Longest common name that is asked for or signed, in bytes.
pub const MAX_CN: usize = 255;

/// Why no request could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsrError {
    /// The common name is empty or longer than [`MAX_CN`].
    CommonName,
    /// A kind of key that cannot sign requests.
    UnsupportedKey(String),
    /// The key refuses to sign.
    Signing,
}

impl fmt::Display for CsrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommonName => {
                write!(
                    f,
                    "the name of a certificate request needs 1 to {MAX_CN} bytes"
                )
            }
            Self::UnsupportedKey(kind) => {
                write!(f, "an unsupported {kind} cannot sign a certificate request")
            }
            Self::Signing => f.write_str("the key did not sign the certificate request"),
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
        return Err(CsrError::CommonName);
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
    let signature = key.sign(&body).ok_or(CsrError::Signing)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::keys::{KeyType, generate};

    #[test]
    fn names_are_bounded() {
        let key = PrivateKey::from_pem(&generate(KeyType::EcdsaP256).unwrap()).unwrap();
        assert_eq!(create(&key, ""), Err(CsrError::CommonName));
        assert!(create(&key, &"a".repeat(MAX_CN)).is_ok());
        let long = create(&key, &"a".repeat(MAX_CN + 1));
        assert_eq!(long, Err(CsrError::CommonName));
    }
}
