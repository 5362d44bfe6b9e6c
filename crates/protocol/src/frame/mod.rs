//! What the front-end and the executor say to each other on the unix socket (executor.md §3).
//!
//! Integers are unsigned 32-bit big-endian, `exit` is signed. A *field* is a length and that many
//! bytes. A request is `total`, then the fields reqid, dispatcher, script, stdin, then `argc` and
//! one field per argument. A response is `exit`, the fields stdout and stderr, then the end of the
//! stream.
//!
//! Extensions of ours, invisible to the reference's programs, since both sides ignore what follows
//! the last expected byte. A request may end with further fields:
//!
//! - [`EXTENSION`] asks for the long form of the response: after stderr come, for each stream, how
//!   many bytes were dropped from its middle (`u64`) and where (`u32`), then how the script ended:
//!   `i32 signal` (0 = none) and `u32` flags ([`Ended`]). Without it a shortened stream holds a
//!   line that says so ([`Output::marked`]).
//! - [`TIME_LIMIT`] followed by decimal digits: seconds after which the script is ended.
//! - [`LIVE`] asks for output while it comes: the response is then [`LIVE_MARK`] and the items of
//!   [`live`](crate::live), of which the last one holds what would have been the response. A refusal
//!   may come as a response of the usual form.
//! - Fields with other names are ignored.
//!
//! After the frame, on the same connection, the front-end may send [`CANCEL`]: the executor then
//! ends the script and answers as usual. Closing the connection cancels nothing.

mod request;
mod response;
#[cfg(test)]
mod tests;

pub use crate::capture::{Capture, Captured as Output};
pub use request::{CancelDecoder, EncodeError, Head, Request, RequestDecoder, RequestError};
pub use response::{Ended, Response, ResponseDecoder, ResponseError};

/// Largest `total` (executor.md §3).
pub const MAX_TOTAL: usize = 16 * 1024 * 1024;
/// Most arguments (executor.md §3).
pub const MAX_ARGS: usize = 256;
/// Most bytes of a request before its stdin: request id, dispatcher and script name.
pub const MAX_HEAD: usize = 16 * 1024;
/// The field after the last argument that asks for the long form of the response.
pub const EXTENSION: &[u8] = b"ctrl-exec/dropped-1";
/// Beginning of the field that limits the script's time; the seconds follow in decimal digits.
pub const TIME_LIMIT: &[u8] = b"ctrl-exec/time-limit-1=";
/// The field that asks for output while it comes.
pub const LIVE: &[u8] = b"ctrl-exec/live-1";
/// What such a response begins with, where others have an exit status: it is none.
pub const LIVE_MARK: [u8; 4] = *b"live";
/// What a front-end sends after its frame to have the script ended.
pub const CANCEL: &[u8] = b"\0\0\0\x10ctrl-exec/cancel";

/// What follows stderr in the long form: per stream `u64` and `u32`, then `i32` and `u32`.
const TRAILER_LEN: usize = 32;
/// The same without the last two, which executors before 0.13 did not send.
const SHORT_TRAILER_LEN: usize = 24;
/// Fields after the last argument that are looked at.
const MAX_EXTENSIONS: usize = 8;

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
