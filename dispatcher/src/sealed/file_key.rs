//! The key of one file, and how it is wrapped.

use super::keys::{PublicKey, SecretKey};
use super::stanza::Stanza;
use super::{MAX_WORK, SealError};
use ctrl_exec_host::random;
use data_encoding::BASE64_NOPAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

const TO_KEY: &str = "age-encryption.org/v1/X25519";
const BY_PASSPHRASE: &str = "age-encryption.org/v1/scrypt";
/// A wrapped key: 16 bytes and their proof.
const WRAPPED: usize = 32;

/// The key of one file.
pub(super) struct FileKey(Zeroizing<[u8; 16]>);

impl FileKey {
    pub fn random() -> Result<Self, SealError> {
        Ok(Self(Zeroizing::new(random_bytes()?)))
    }

    pub fn wrap_to(&self, public: &PublicKey) -> Result<Stanza, SealError> {
        let once = SecretKey::generate()?;
        let share = once.public().0;
        let wrapping = agreed(&once, &public.0, &share, &public.0)?
            .ok_or(SealError::Damaged("a public key that is none"))?;
        let args = vec!["X25519".to_owned(), BASE64_NOPAD.encode(&share)];
        Ok(Stanza {
            args,
            body: self.wrapped(&wrapping)?,
        })
    }

    /// The key, if the stanza is for `secret`.
    pub fn by_key(stanza: &Stanza, secret: &SecretKey) -> Result<Option<Self>, SealError> {
        let [kind, share] = stanza.args.as_slice() else {
            return Ok(None);
        };
        if kind != "X25519" {
            return Ok(None);
        }
        let share: [u8; 32] = BASE64_NOPAD
            .decode(share.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(SealError::Damaged("its header"))?;
        let wrapping = agreed(secret, &share, &share, &secret.public().0)?
            .ok_or(SealError::Damaged("its header"))?;
        Self::unwrapped(&stanza.body, &wrapping)
    }

    pub fn wrap_by_passphrase(&self, passphrase: &str, work: u8) -> Result<Stanza, SealError> {
        let salt = random_bytes::<16>()?;
        let wrapping = stretched(passphrase, &salt, work)?;
        let args = vec![
            "scrypt".to_owned(),
            BASE64_NOPAD.encode(&salt),
            work.to_string(),
        ];
        Ok(Stanza {
            args,
            body: self.wrapped(&wrapping)?,
        })
    }

    pub fn by_passphrase(stanza: &Stanza, passphrase: &str) -> Result<Self, SealError> {
        let damaged = SealError::Damaged("its header");
        let [_, salt, work] = stanza.args.as_slice() else {
            return Err(damaged);
        };
        let salt: [u8; 16] = BASE64_NOPAD
            .decode(salt.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(damaged.clone())?;
        if work.is_empty() || work.starts_with('0') || !work.bytes().all(|b| b.is_ascii_digit()) {
            return Err(damaged);
        }
        let work: u8 = work.parse().map_err(|_| damaged)?;
        if work > MAX_WORK {
            return Err(SealError::TooMuchWork(work));
        }
        let wrapping = stretched(passphrase, &salt, work)?;
        Self::unwrapped(&stanza.body, &wrapping)?.ok_or(SealError::WrongPassphrase)
    }

    fn wrapped(&self, wrapping: &[u8; 32]) -> Result<Vec<u8>, SealError> {
        let mut body = self.0.to_vec();
        chacha(wrapping)?
            .seal_in_place_append_tag(zero_nonce(), Aad::empty(), &mut body)
            .map_err(|_| cannot("wrap a key"))?;
        Ok(body)
    }

    fn unwrapped(body: &[u8], wrapping: &[u8; 32]) -> Result<Option<Self>, SealError> {
        if body.len() != WRAPPED {
            return Err(SealError::Damaged("its header"));
        }
        let mut body = Zeroizing::new(body.to_vec());
        let opened = chacha(wrapping)?.open_in_place(zero_nonce(), Aad::empty(), &mut body);
        let key = opened.ok().and_then(|plain| (&*plain).try_into().ok());
        Ok(key.map(|key| Self(Zeroizing::new(key))))
    }

    /// The proof of a header.
    pub fn prove_header(&self, header: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(hmac::sign(&self.header_key()?, header).as_ref().to_vec())
    }

    pub fn verify_header(&self, header: &[u8], proof: &[u8]) -> Result<(), SealError> {
        hmac::verify(&self.header_key()?, header, proof)
            .map_err(|_| SealError::Damaged("its header"))
    }

    fn header_key(&self) -> Result<hmac::Key, SealError> {
        let key = derived(&*self.0, &[], "header")?;
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &*key))
    }

    /// The key of the content.
    pub fn payload_key(&self, nonce: &[u8]) -> Result<LessSafeKey, SealError> {
        chacha(&*derived(&*self.0, nonce, "payload")?)
    }
}

/// Random bytes.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], SealError> {
    random::bytes().map_err(|error| SealError::System(format!("no random numbers: {error}")))
}

/// The wrapping key of `secret` and `other`; `None` when `other` is no real key.
fn agreed(
    secret: &SecretKey,
    other: &[u8; 32],
    share: &[u8; 32],
    public: &[u8; 32],
) -> Result<Option<Zeroizing<[u8; 32]>>, SealError> {
    let shared = Zeroizing::new(x25519_dalek::x25519(*secret.0, *other));
    if *shared == [0; 32] {
        return Ok(None);
    }
    let salt = [*share, *public].concat();
    derived(&*shared, &salt, TO_KEY).map(Some)
}

fn stretched(
    passphrase: &str,
    salt: &[u8; 16],
    work: u8,
) -> Result<Zeroizing<[u8; 32]>, SealError> {
    let failed = |error: &dyn std::fmt::Display| SealError::System(error.to_string());
    let params = scrypt::Params::new(work, 8, 1, 32).map_err(|error| failed(&error))?;
    let salt = [BY_PASSPHRASE.as_bytes(), salt].concat();
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(passphrase.as_bytes(), &salt, &params, &mut *key)
        .map_err(|error| failed(&error))?;
    Ok(key)
}

fn derived(secret: &[u8], salt: &[u8], info: &str) -> Result<Zeroizing<[u8; 32]>, SealError> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key))
        .map_err(|_| cannot("derive a key"))?;
    Ok(key)
}

fn chacha(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&CHACHA20_POLY1305, key)
        .map(LessSafeKey::new)
        .map_err(|_| cannot("use a key"))
}

/// The primitives fail on wrong sizes only, and theirs are fixed.
fn cannot(what: &str) -> SealError {
    SealError::System(format!("cannot {what}"))
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
