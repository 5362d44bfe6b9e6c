//! Files encrypted to a passphrase or to public keys, in the `age` format, version 1
//! (age-encryption.org/v1): the tool `age` opens what is made here, and the reverse.
//!
//! What a file holds is a key of its own, wrapped for whoever may open it, and the content in
//! chunks that each prove their place, so that a damaged or cut file is never taken for a whole one.
//! The primitives are those of `ring`, `scrypt` and `x25519-dalek`.

mod file_key;
mod header;
mod keys;
mod stanza;
mod stream;

pub use keys::{PublicKey, SecretKey};

use file_key::FileKey;
use header::Header;
use stanza::Stanza;
use std::fmt;
use zeroize::Zeroizing;

/// Work factor of passphrases: two to this power, which takes 128 MiB and half a second.
const WORK: u8 = 17;
/// Largest work factor that is followed: 1 GiB. A file could otherwise ask for any.
const MAX_WORK: u8 = 20;

/// Whom a file is for.
#[derive(Debug)]
pub enum For {
    /// Whoever knows the passphrase.
    Passphrase(Zeroizing<String>),
    /// Whoever has the secret key of one of these.
    Keys(Vec<PublicKey>),
}

/// What a file is opened with.
#[derive(Debug)]
pub enum With {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// One of these keys.
    Keys(Vec<SecretKey>),
}

/// How a file can be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opens {
    /// By a passphrase.
    ByPassphrase,
    /// By a secret key.
    ByKey,
}

/// Why a file could not be encrypted or opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SealError {
    /// Not a file of this format.
    Foreign,
    /// The file was changed or damaged; where.
    Damaged(&'static str),
    /// The end is missing.
    Truncated,
    /// Another passphrase, or the place where it is proved is damaged.
    WrongPassphrase,
    /// It is for none of the keys.
    WrongKey,
    /// It takes a passphrase, and a key was given, or the reverse.
    OtherWay(Opens),
    /// It asks for more work than is done for a passphrase.
    TooMuchWork(u8),
    /// The system has no random numbers, or no memory for the work.
    System(String),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not an encrypted file of the age format"),
            Self::Damaged(what) => write!(f, "damaged: {what}"),
            Self::Truncated => f.write_str("cut short: its end is missing"),
            Self::WrongPassphrase => f.write_str("wrong passphrase (or a damaged beginning)"),
            Self::WrongKey => f.write_str("encrypted to another key than the one given"),
            Self::OtherWay(Opens::ByPassphrase) => {
                f.write_str("encrypted with a passphrase, not to a key")
            }
            Self::OtherWay(Opens::ByKey) => {
                f.write_str("encrypted to a key, not with a passphrase: give its secret part")
            }
            Self::TooMuchWork(work) => write!(
                f,
                "asks for a work factor of {work}; up to {MAX_WORK} is done"
            ),
            Self::System(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for SealError {}

/// Encrypts `content`.
///
/// # Errors
/// No random numbers.
pub fn seal(content: &[u8], whom: &For) -> Result<Vec<u8>, SealError> {
    seal_with(content, whom, WORK)
}

fn seal_with(content: &[u8], whom: &For, work: u8) -> Result<Vec<u8>, SealError> {
    let key = FileKey::random()?;
    let stanzas = match whom {
        For::Passphrase(passphrase) => vec![key.wrap_by_passphrase(passphrase, work)?],
        For::Keys(keys) => keys
            .iter()
            .map(|public| key.wrap_to(public))
            .collect::<Result<_, _>>()?,
    };
    let mut out = Header::write(&stanzas, &key)?;
    stream::encrypt(&key, content, &mut out)?;
    Ok(out)
}

/// How the file can be opened, by its beginning.
///
/// # Errors
/// [`SealError::Foreign`], or a beginning that is damaged.
pub fn opens(file: &[u8]) -> Result<Opens, SealError> {
    let header = Header::parse(file)?;
    Ok(if header.stanzas.iter().any(Stanza::is_passphrase) {
        Opens::ByPassphrase
    } else {
        Opens::ByKey
    })
}

/// The content of a file. Nothing of it is given out unless all of it is sound.
///
/// # Errors
/// See [`SealError`].
pub fn open(file: &[u8], with: &With) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let header = Header::parse(file)?;
    let key = match with {
        With::Passphrase(passphrase) => by_passphrase(&header, passphrase)?,
        With::Keys(keys) => by_keys(&header, keys)?,
    };
    header.verify(&key)?;
    stream::decrypt(&key, header.payload)
}

fn by_passphrase(header: &Header<'_>, passphrase: &str) -> Result<FileKey, SealError> {
    // The format has a passphrase alone or not at all.
    let [stanza] = header.stanzas.as_slice() else {
        return Err(SealError::OtherWay(Opens::ByKey));
    };
    if !stanza.is_passphrase() {
        return Err(SealError::OtherWay(Opens::ByKey));
    }
    FileKey::by_passphrase(stanza, passphrase)
}

fn by_keys(header: &Header<'_>, keys: &[SecretKey]) -> Result<FileKey, SealError> {
    if header.stanzas.iter().any(Stanza::is_passphrase) {
        return Err(SealError::OtherWay(Opens::ByPassphrase));
    }
    for stanza in &header.stanzas {
        for key in keys {
            if let Some(found) = FileKey::by_key(stanza, key)? {
                return Ok(found);
            }
        }
    }
    Err(SealError::WrongKey)
}

#[cfg(test)]
mod tests;
