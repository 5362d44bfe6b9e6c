//! The content: chunks of 64 KiB, each with a proof of its place, the last one marked.

use super::SealError;
use super::file_key::{FileKey, random_bytes};
use ring::aead::{Aad, Nonce};
use zeroize::Zeroizing;

const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
const NONCE: usize = 16;

/// Appends the content, encrypted.
pub(super) fn encrypt(key: &FileKey, content: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
    let failed = || SealError::System("the content could not be encrypted".to_owned());
    let nonce = random_bytes::<NONCE>()?;
    let key = key.payload_key(&nonce)?;
    out.reserve(NONCE + content.len() + (content.len() / CHUNK + 1) * TAG);
    out.extend_from_slice(&nonce);
    let chunks = content.len().div_ceil(CHUNK).max(1);
    for number in 0..chunks {
        let from = number * CHUNK;
        let plain = &content[from..content.len().min(from + CHUNK)];
        let start = out.len();
        out.extend_from_slice(plain);
        let nonce = place(number, number + 1 == chunks);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..])
            .map_err(|_| failed())?;
        out.extend_from_slice(tag.as_ref());
    }
    Ok(())
}

/// The content of what [`encrypt`] made.
pub(super) fn decrypt(key: &FileKey, payload: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, mut rest) = payload
        .split_at_checked(NONCE)
        .ok_or(SealError::Truncated)?;
    let key = key.payload_key(nonce)?;
    let mut content = Zeroizing::new(Vec::with_capacity(rest.len()));
    let mut buffer = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
    let mut number = 0;
    loop {
        let size = rest.len().min(CHUNK + TAG);
        let last = size == rest.len();
        let mut open = |last| {
            buffer.clear();
            buffer.extend_from_slice(&rest[..size]);
            let plain = key.open_in_place(place(number, last), Aad::empty(), &mut buffer);
            plain.map(|plain| content.extend_from_slice(plain)).is_ok()
        };
        if size < TAG || !open(last) {
            // A sound chunk that is not marked as the last one: what follows is missing.
            let cut = last && (size < TAG || open(false));
            return Err(if cut {
                SealError::Truncated
            } else {
                SealError::Damaged("its content, or its end is missing")
            });
        }
        // Only an empty content ends with an empty chunk.
        if last && size == TAG && number > 0 {
            return Err(SealError::Damaged("its end"));
        }
        if last {
            return Ok(content);
        }
        rest = &rest[size..];
        number += 1;
    }
}

/// The nonce of a chunk: its number, and whether it is the last one.
fn place(number: usize, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&(number as u64).to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}
