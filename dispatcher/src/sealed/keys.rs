//! Key pairs as text: `age1…` and `AGE-SECRET-KEY-1…`.

use super::SealError;
use bech32::{Bech32, Hrp};
use ctrl_exec_host::random;
use std::fmt;
use zeroize::Zeroizing;

const PUBLIC: &str = "age";
const SECRET: &str = "age-secret-key-";

/// Whom a file can be encrypted to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublicKey(pub(super) [u8; 32]);

/// What opens files that were encrypted to its public key.
pub struct SecretKey(pub(super) Zeroizing<[u8; 32]>);

impl PublicKey {
    /// Reads `age1…`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        decode(text, PUBLIC).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(PUBLIC, &self.0))
    }
}

impl SecretKey {
    /// A new one.
    ///
    /// # Errors
    /// No random numbers.
    pub fn generate() -> Result<Self, SealError> {
        let bytes = random::bytes().map_err(|error| SealError::System(error.to_string()))?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// Reads the keys of a file as `age-keygen` writes it: one a line, `#` begins a comment.
    /// `None` when a line is none, or there is no line.
    pub fn parse_file(text: &str) -> Option<Vec<Self>> {
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.push(Self(decode(line, SECRET)?));
        }
        (!keys.is_empty()).then_some(keys)
    }

    /// Its public part.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::x25519(
            *self.0,
            x25519_dalek::X25519_BASEPOINT_BYTES,
        ))
    }

    /// The text that [`parse_file`](Self::parse_file) reads.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(encode(SECRET, &self.0).to_ascii_uppercase())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

fn decode(text: &str, prefix: &str) -> Option<Zeroizing<[u8; 32]>> {
    let parsed = bech32::primitives::decode::CheckedHrpstring::new::<Bech32>(text).ok()?;
    if !parsed.hrp().as_str().eq_ignore_ascii_case(prefix) {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    let mut bytes = parsed.byte_iter();
    for place in key.iter_mut() {
        *place = bytes.next()?;
    }
    bytes.next().is_none().then_some(key)
}

fn encode(prefix: &str, bytes: &[u8; 32]) -> String {
    let prefix = Hrp::parse_unchecked(prefix);
    // The text has a fixed length, far below the limit that is the only error.
    bech32::encode::<Bech32>(prefix, bytes).unwrap_or_default()
}
