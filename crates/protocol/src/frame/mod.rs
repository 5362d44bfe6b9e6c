//! What the front-end and the executor say to each other on the unix socket (executor.md §3).
//!
//! Integers are unsigned 32-bit big-endian, `exit` is signed. A *field* is a length and that many
//! bytes. A request is `total`, then the fields reqid, dispatcher, script, stdin, then `argc` and
//! one field per argument. A response is `exit`, the fields stdout and stderr, then the end of the
//! stream.
//!
//! One extension of ours, invisible to the reference's programs. Both sides ignore what follows
//! the last expected byte, so a request may end with the field [`EXTENSION`]; an executor that
//! knows it then sends, after stderr, for each stream how many bytes were dropped from its middle
//! (`u64`) and where (`u32`). Without it a shortened stream holds a line that says so
//! ([`Output::marked`]).

mod output;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use output::{Capture, Output};
pub use request::{EncodeError, Request, RequestDecoder, RequestError};
pub use response::{Response, ResponseDecoder, ResponseError};

/// Largest `total` (executor.md §3).
pub const MAX_TOTAL: usize = 16 * 1024 * 1024;
/// Most arguments (executor.md §3).
pub const MAX_ARGS: usize = 256;
/// The field after the last argument that asks for the long form of the response.
pub const EXTENSION: &[u8] = b"ctrl-exec/dropped-1";

const EXTENSION_LEN: usize = 24;

fn put_len(out: &mut Vec<u8>, len: usize) {
    // Senders are bounded far below 4 GiB; a longer field cannot be expressed.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_field(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take_len(bytes: &mut &[u8]) -> Option<usize> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    // Where usize is 32 bits this is exact; elsewhere it widens.
    usize::try_from(u32::from_be_bytes(*word)).ok()
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_len(bytes)?;
    let (field, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(field)
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
