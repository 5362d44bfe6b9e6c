//! Private keys: reading, matching with a certificate, generating.

use std::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair,
};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::{RsaSigningKey, any_ecdsa_type, any_supported_type};
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;

use crate::x509::cert::{self, KeyKind};
use crate::x509::pem;

/// The keys these programs can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA P-256, the default.
    EcdsaP256,
    /// ECDSA P-384.
    EcdsaP384,
    /// Ed25519, for dispatchers only: see [`PrivateKey::agent_from_pem`].
    Ed25519,
    /// RSA of 2048 bits, which a Perl dispatcher insists on. Needs the feature `rsa-keygen`.
    Rsa2048,
}

impl KeyType {
    /// Parses the value of `--key-type`: `p256`/`ecdsa`, `p384`, `ed25519`, `rsa`/`rsa2048`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "p256" | "p-256" | "ecdsa" | "ecdsa-p256" => Some(Self::EcdsaP256),
            "p384" | "p-384" | "ecdsa-p384" => Some(Self::EcdsaP384),
            "ed25519" => Some(Self::Ed25519),
            "rsa" | "rsa2048" | "rsa-2048" => Some(Self::Rsa2048),
            _ => None,
        }
    }
}

/// Why a key could not be read or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// No usable PEM.
    Pem(pem::PemError),
    /// Not a key of a supported kind (RSA of 2048 to 4096 bits, P-256, P-384, Ed25519).
    Unsupported,
    /// Not a key of a kind that agents have (RSA of 2048 to 4096 bits, P-256, P-384).
    UnsupportedByAgents,
    /// The system gave no random numbers, or generation failed.
    Generation,
    /// This program was built without RSA key generation.
    NoRsa,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(error) => error.fmt(f),
            Self::Unsupported => f.write_str(
                "not a supported private key (RSA of 2048 to 4096 bits, P-256, P-384, Ed25519)",
            ),
            Self::UnsupportedByAgents => f.write_str(
                "not a private key that an agent can use (RSA of 2048 to 4096 bits, P-256, P-384)",
            ),
            Self::Generation => f.write_str("the key could not be generated"),
            Self::NoRsa => f.write_str("this program was built without RSA key generation"),
        }
    }
}

impl std::error::Error for KeyError {}

/// A private key ready to sign.
#[derive(Clone)]
pub struct PrivateKey {
    inner: Arc<dyn SigningKey>,
    spki: Vec<u8>,
    kind: KeyKind,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.kind)
    }
}

impl PrivateKey {
    /// Reads a PEM private key: PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC1 (`EC PRIVATE KEY`).
    ///
    /// # Errors
    /// Not PEM, encrypted, or of an unsupported kind.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::private_key(text).map_err(KeyError::Pem)?;
        let inner = any_supported_type(&der).map_err(|_| KeyError::Unsupported)?;
        Self::of(inner).ok_or(KeyError::Unsupported)
    }

    /// Reads the PEM private key of an agent, which may not be Ed25519: code to sign with it is
    /// 26 KB of a router's flash, for keys that the reference does not sign. (Peers and CAs with
    /// Ed25519 are verified.)
    ///
    /// # Errors
    /// Not PEM, encrypted, or of an unsupported kind.
    pub fn agent_from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::private_key(text).map_err(KeyError::Pem)?;
        let inner = rsa_or_ecdsa(&der).ok_or(KeyError::UnsupportedByAgents)?;
        Self::of(inner).ok_or(KeyError::UnsupportedByAgents)
    }

    fn of(inner: Arc<dyn SigningKey>) -> Option<Self> {
        let spki = inner.public_key()?.to_vec();
        let kind = cert::key_kind(&spki)?;
        Some(Self { inner, spki, kind })
    }

    /// DER of the public half, as SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Kind and strength.
    pub fn kind(&self) -> &KeyKind {
        &self.kind
    }

    /// The key as rustls wants it.
    pub(crate) fn signing_key(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.inner)
    }

    /// Signs a message for a certificate or request: PKCS#1 v1.5 with SHA-256 for RSA, the curve's
    /// own hash for ECDSA. `None` when the key refuses.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signer = self.inner.choose_scheme(&[
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ])?;
        signer.sign(message).ok()
    }
}

fn rsa_or_ecdsa(der: &PrivateKeyDer<'_>) -> Option<Arc<dyn SigningKey>> {
    match RsaSigningKey::new(der) {
        Ok(key) => Some(Arc::new(key)),
        Err(_) => any_ecdsa_type(der).ok(),
    }
}

/// Makes a key; PEM of PKCS#8 with final newline. RSA takes seconds on a router: use
/// [`generate_rsa_2048`] there, which reports progress.
///
/// # Errors
/// No random numbers, or RSA in a program built without it.
pub fn generate(kind: KeyType) -> Result<String, KeyError> {
    match kind {
        KeyType::EcdsaP256 => generate_p256(),
        KeyType::EcdsaP384 => generate_p384(),
        KeyType::Ed25519 => ed25519(&SystemRandom::new()),
        KeyType::Rsa2048 => rsa_2048(),
    }
}

/// Makes a key on P-256; PEM of PKCS#8.
///
/// # Errors
/// No random numbers.
pub fn generate_p256() -> Result<String, KeyError> {
    ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)
}

/// Makes a key on P-384; PEM of PKCS#8.
///
/// # Errors
/// No random numbers.
pub fn generate_p384() -> Result<String, KeyError> {
    ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING)
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Result<String, KeyError> {
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())
        .map_err(|_| KeyError::Generation)?;
    Ok(pem::encode("PRIVATE KEY", document.as_ref()))
}

/// ring writes PKCS#8 version 2 with the public key, which OpenSSL 3.0 does not read: keep the
/// seed only.
fn ed25519(random: &SystemRandom) -> Result<String, KeyError> {
    const PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let document = Ed25519KeyPair::generate_pkcs8(random).map_err(|_| KeyError::Generation)?;
    let seed = document.as_ref().get(16..48).ok_or(KeyError::Generation)?;
    let mut der = PREFIX.to_vec();
    der.extend_from_slice(seed);
    Ok(pem::encode("PRIVATE KEY", &der))
}

#[cfg(not(feature = "rsa-keygen"))]
fn rsa_2048() -> Result<String, KeyError> {
    Err(KeyError::NoRsa)
}

#[cfg(feature = "rsa-keygen")]
fn rsa_2048() -> Result<String, KeyError> {
    generate_rsa_2048(&mut || {})
}

/// Makes an RSA key of 2048 bits; PEM of PKCS#8. `progress` is called many times on the way (for
/// each number that is tried), so that a program can show that it lives.
///
/// # Errors
/// Generation failed.
#[cfg(feature = "rsa-keygen")]
pub fn generate_rsa_2048(progress: &mut dyn FnMut()) -> Result<String, KeyError> {
    let document = crate::x509::rsa_keygen::generate(progress).ok_or(KeyError::Generation)?;
    let text = pem::encode("PRIVATE KEY", &document);
    // ring checks the numbers of a key when it reads it.
    PrivateKey::agent_from_pem(&text).map_err(|_| KeyError::Generation)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_are_read_back() {
        for (kind, expected) in [
            (KeyType::EcdsaP256, KeyKind::EcP256),
            (KeyType::EcdsaP384, KeyKind::EcP384),
            (KeyType::Ed25519, KeyKind::Ed25519),
        ] {
            let text = generate(kind).unwrap();
            let key = PrivateKey::from_pem(&text).unwrap();
            assert_eq!(*key.kind(), expected);
            assert!(key.sign(b"x").is_some());
            let agents = PrivateKey::agent_from_pem(&text);
            assert_eq!(agents.is_ok(), expected != KeyKind::Ed25519);
            assert_ne!(text, generate(kind).unwrap());
        }
    }

    #[cfg(feature = "rsa-keygen")]
    #[test]
    fn rsa_2048_with_progress() {
        let mut calls = 0u32;
        let text = generate_rsa_2048(&mut || calls += 1).unwrap();
        let key = PrivateKey::from_pem(&text).unwrap();
        assert_eq!(*key.kind(), KeyKind::Rsa { bits: 2048 });
        assert!(calls > 0);
    }

    #[test]
    fn names_on_the_command_line() {
        assert_eq!(KeyType::parse("RSA"), Some(KeyType::Rsa2048));
        assert_eq!(KeyType::parse("ecdsa"), Some(KeyType::EcdsaP256));
        assert_eq!(KeyType::parse("dsa"), None);
    }

    #[test]
    fn junk_is_refused() {
        let junk = pem::encode("PRIVATE KEY", b"junk");
        assert_eq!(
            PrivateKey::from_pem(&junk).unwrap_err(),
            KeyError::Unsupported
        );
        assert!(matches!(
            PrivateKey::from_pem("").unwrap_err(),
            KeyError::Pem(_)
        ));
    }
}
