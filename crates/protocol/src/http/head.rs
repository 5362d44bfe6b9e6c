//! Gathering a message head that arrives in pieces of any size.

use super::{HttpError, Limits};

/// Collects bytes up to and including the blank line that ends a head. Lines end in LF or CRLF.
#[derive(Debug, Default)]
pub(super) struct HeadBuffer {
    bytes: Vec<u8>,
    /// Where the line that is being received begins.
    line_start: usize,
    /// Complete lines so far.
    lines: usize,
}

/// What [`HeadBuffer::push`] found.
pub(super) struct Pushed {
    /// Bytes taken from the input.
    pub used: usize,
    /// The head is complete, its blank line included.
    pub complete: bool,
}

impl HeadBuffer {
    /// Takes bytes up to the end of the head. Nothing beyond the limits is ever stored.
    pub fn push(&mut self, input: &[u8], limits: &Limits) -> Result<Pushed, HttpError> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let (piece, ended) = match rest.iter().position(|&byte| byte == b'\n') {
                Some(at) => (&rest[..=at], true),
                None => (rest, false),
            };
            if self.bytes.len() + piece.len() > limits.max_head {
                return Err(HttpError::HeadTooLarge);
            }
            if self.bytes.capacity() == 0 {
                // One allocation for the head of every peer of ours.
                self.bytes.reserve_exact(FIRST_RESERVE.min(limits.max_head));
            }
            self.bytes.extend_from_slice(piece);
            used += piece.len();
            if ended {
                let blank = is_blank(&self.bytes[self.line_start..]);
                if blank && self.lines == 0 {
                    return Err(HttpError::Empty);
                }
                if blank {
                    return Ok(Pushed {
                        used,
                        complete: true,
                    });
                }
                self.lines += 1;
                self.line_start = self.bytes.len();
                // The first line is not a header line.
                if self.lines > limits.max_headers + 1 {
                    return Err(HttpError::TooManyHeaders);
                }
            }
        }
        Ok(Pushed {
            used,
            complete: false,
        })
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, for somebody else to keep; the buffer is empty again.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self).bytes
    }
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

/// A body of announced or unknown length, grown only by what really arrives.
#[derive(Debug, Default)]
pub(super) struct BodyBuffer {
    pub bytes: Vec<u8>,
}

impl BodyBuffer {
    /// Appends `input`; `expected` is the final length if known. Capacity is never more than
    /// doubled and never beyond what was announced, whatever that is.
    pub fn push(&mut self, input: &[u8], expected: Option<usize>) {
        let needed = self.bytes.len() + input.len();
        if needed > self.bytes.capacity() {
            let doubled = needed.saturating_mul(2).max(FIRST_RESERVE);
            let target = expected
                .map_or(doubled, |expected| doubled.min(expected))
                .max(needed);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
        self.bytes.extend_from_slice(input);
    }
}

/// Bytes reserved at first, for heads and for bodies of unknown length.
const FIRST_RESERVE: usize = 512;
