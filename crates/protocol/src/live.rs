//! Output of a script on its way while the script runs: what waits for a slow reader, and how it
//! travels, from the executor to the agent and from the agent to the dispatcher alike.
//!
//! It travels as *items*: one letter, a `u32` in network order, and for small letters so many bytes.
//!
//! | letter | number | bytes |
//! |---|---|---|
//! | `o` | length | standard output, in the order in which it came; none: a sign of life |
//! | `e` | length | standard error |
//! | `O` | bytes missing here of standard output | – |
//! | `E` | bytes missing here of standard error | – |
//! | `x` | length | the result, as it would have come without this; the last item |
//!
//! Other letters are of later versions and passed over: small ones with their bytes.

use std::collections::VecDeque;

/// One of the two outputs of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Something that a script wrote, or that was lost of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Bytes(Stream, Vec<u8>),
    /// So many bytes are missing here.
    Gap(Stream, u64),
}

/// What was written and has not been passed on. Of more than it may hold the middle is lost, which
/// [`Live::pop`] tells where it was.
#[derive(Debug, Default)]
pub struct Live {
    head: Queue,
    missing: [u64; 2],
    tail: Queue,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    held: usize,
}

impl Queue {
    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.held += bytes.len();
        match self.pieces.back_mut() {
            Some((last, piece)) if *last == stream && piece.len() + bytes.len() <= PIECE => {
                piece.extend_from_slice(bytes);
            }
            _ => {
                self.held += OVERHEAD;
                self.pieces.push_back((stream, bytes.to_vec()));
            }
        }
    }

    fn pop(&mut self) -> Option<(Stream, Vec<u8>)> {
        let piece = self.pieces.pop_front()?;
        self.held -= piece.1.len() + OVERHEAD;
        Some(piece)
    }
}

impl Live {
    /// Adds what came. `limit`: about how many bytes may be held; half of them are kept of the
    /// beginning, half of the end.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], limit: usize) {
        for part in bytes.chunks(PIECE) {
            let whole = self.tail.pieces.is_empty() && self.missing == [0; 2];
            if whole && self.head.held + part.len() <= limit / 2 {
                self.head.push(stream, part);
            } else {
                self.tail.push(stream, part);
            }
        }
        while self.tail.held > limit / 2 {
            let Some((stream, bytes)) = self.tail.pop() else {
                return;
            };
            self.miss(stream, bytes.len() as u64);
        }
    }

    /// Adds that so many bytes are missing here. Gaps that nothing has passed between are one.
    pub fn skip(&mut self, stream: Stream, bytes: u64) {
        if bytes == 0 {
            return;
        }
        // What came after an earlier gap is lost with this one.
        while let Some((stream, bytes)) = self.tail.pop() {
            self.miss(stream, bytes.len() as u64);
        }
        self.miss(stream, bytes);
    }

    fn miss(&mut self, stream: Stream, bytes: u64) {
        let missing = &mut self.missing[stream as usize];
        *missing = missing.saturating_add(bytes);
    }

    /// What is to be passed on next.
    pub fn pop(&mut self) -> Option<Piece> {
        if let Some((stream, bytes)) = self.head.pop() {
            return Some(Piece::Bytes(stream, bytes));
        }
        for stream in [Stream::Out, Stream::Err] {
            let missing = std::mem::take(&mut self.missing[stream as usize]);
            if missing > 0 {
                return Some(Piece::Gap(stream, missing));
            }
        }
        self.head = std::mem::take(&mut self.tail);
        self.head
            .pop()
            .map(|(stream, bytes)| Piece::Bytes(stream, bytes))
    }

    /// Moves items to the end of `out` until that has `most` bytes or a little more.
    pub fn encode(&mut self, out: &mut Vec<u8>, most: usize) {
        while out.len() < most {
            match self.pop() {
                Some(Piece::Bytes(stream, bytes)) => {
                    put_item(out, [b'o', b'e'][stream as usize], &bytes);
                }
                Some(Piece::Gap(stream, bytes)) => {
                    out.push([b'O', b'E'][stream as usize]);
                    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                    out.extend_from_slice(&bytes.to_be_bytes());
                }
                None => return,
            }
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held() == 0 && self.missing == [0; 2]
    }

    /// About how many bytes of memory are held.
    pub fn held(&self) -> usize {
        self.head.held + self.tail.held
    }
}

/// Adds an item that has bytes.
pub fn put_item(out: &mut Vec<u8>, letter: u8, bytes: &[u8]) {
    out.push(letter);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The letter of the last item.
pub const END: u8 = b'x';
/// The item that tells nothing but that its sender is there.
pub const ALIVE: &[u8] = b"o\0\0\0\0";

/// What a [`Decoder`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Output.
    Bytes(Stream, &'a [u8]),
    /// Output is missing here.
    Gap(Stream, u64),
    /// A part of the result.
    End(&'a [u8]),
}

/// Reads items from bytes in pieces of any size, holding none of them.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEAD],
    filled: usize,
    /// Bytes of the item that are still to come.
    left: usize,
    over: bool,
}

impl Decoder {
    /// Takes bytes and tells what is in them. What follows the last item is passed over.
    pub fn push(&mut self, mut bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) {
        while !bytes.is_empty() && !self.over {
            if self.filled < HEAD {
                self.head[self.filled] = bytes[0];
                self.filled += 1;
                bytes = &bytes[1..];
                if self.filled == HEAD {
                    self.begin(found);
                }
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(self.left));
            match self.head[0] {
                b'o' => found(Found::Bytes(Stream::Out, now)),
                b'e' => found(Found::Bytes(Stream::Err, now)),
                END => found(Found::End(now)),
                _ => {}
            }
            bytes = rest;
            self.left -= now.len();
            self.end_item();
        }
    }

    fn begin(&mut self, found: &mut dyn FnMut(Found<'_>)) {
        let [letter, number @ ..] = self.head;
        let number = u32::from_be_bytes(number);
        match letter {
            b'O' => found(Found::Gap(Stream::Out, number.into())),
            b'E' => found(Found::Gap(Stream::Err, number.into())),
            _ => {}
        }
        if letter.is_ascii_lowercase() {
            // Where usize is 32 bits this is exact; elsewhere it widens.
            self.left = usize::try_from(number).unwrap_or(usize::MAX);
        }
        self.end_item();
    }

    fn end_item(&mut self) {
        if self.left == 0 {
            self.filled = 0;
            self.over = self.head[0] == END;
        }
    }

    /// The last item has come, whole.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

/// Letter and number of an item.
const HEAD: usize = 5;
/// Bytes that are lost or passed on together.
const PIECE: usize = 2048;
/// What a piece takes beyond its bytes.
const OVERHEAD: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use Stream::{Err, Out};

    fn decode(bytes: &[u8], step: usize) -> (Vec<Piece>, Vec<u8>, bool) {
        let mut decoder = Decoder::default();
        let (mut pieces, mut end): (Vec<Piece>, _) = (Vec::new(), Vec::new());
        for part in bytes.chunks(step) {
            decoder.push(part, &mut |found| match found {
                Found::Bytes(stream, bytes) => match pieces.last_mut() {
                    Some(Piece::Bytes(last, piece)) if *last == stream => piece.extend(bytes),
                    _ => pieces.push(Piece::Bytes(stream, bytes.to_vec())),
                },
                Found::Gap(stream, bytes) => pieces.push(Piece::Gap(stream, bytes)),
                Found::End(bytes) => end.extend_from_slice(bytes),
            });
        }
        (pieces, end, decoder.is_over())
    }

    #[test]
    fn order_is_kept_and_the_middle_is_lost() {
        let mut live = Live::default();
        live.push(Out, b"a", 100_000);
        live.push(Err, b"b", 100_000);
        live.push(Out, b"c", 100_000);
        live.push(Out, b"d", 100_000);
        let piece = |stream, bytes: &[u8]| Piece::Bytes(stream, bytes.to_vec());
        assert_eq!(live.pop(), Some(piece(Out, b"a")));
        assert_eq!(live.pop(), Some(piece(Err, b"b")));
        assert_eq!(live.pop(), Some(piece(Out, b"cd")));
        assert_eq!(live.pop(), None);
        assert!(live.is_empty());
        let mut sum = 0;
        for n in 0..1000 {
            let text = format!("{n:09}\n").repeat(100);
            sum += text.len();
            live.push(if n % 2 == 0 { Out } else { Err }, text.as_bytes(), 20_000);
            assert!(live.held() <= 20_000, "{}", live.held());
        }
        let mut got = Vec::new();
        while let Some(piece) = live.pop() {
            got.push(piece);
        }
        assert!(matches!(&got[0], Piece::Bytes(Out, bytes) if bytes.starts_with(b"000000000\n")));
        assert!(
            matches!(got.last(), Some(Piece::Bytes(Err, bytes)) if bytes.ends_with(b"000000999\n"))
        );
        let gaps = got.iter().filter(|piece| matches!(piece, Piece::Gap(..)));
        assert_eq!(gaps.count(), 2, "one place, both streams");
        let all: u64 = got
            .iter()
            .map(|piece| match piece {
                Piece::Bytes(_, bytes) => bytes.len() as u64,
                Piece::Gap(_, bytes) => *bytes,
            })
            .sum();
        assert_eq!(all, sum as u64, "nothing is lost without a word");
    }

    #[test]
    fn a_small_limit_keeps_the_end_of_a_large_piece() {
        let mut live = Live::default();
        let text: Vec<u8> = (0..30_000u32).flat_map(u32::to_be_bytes).collect();
        live.push(Out, &text, 8192);
        let Some(Piece::Bytes(Out, head)) = live.pop() else {
            panic!("no head");
        };
        assert!(text.starts_with(&head));
        let mut last = None;
        while let Some(piece) = live.pop() {
            last = Some(piece);
        }
        assert!(matches!(last, Some(Piece::Bytes(Out, bytes)) if text.ends_with(&bytes)));
    }

    #[test]
    fn gaps_of_others_are_passed_on_where_they_were() {
        let mut live = Live::default();
        live.push(Out, b"a", 1000);
        live.skip(Err, 5);
        live.push(Out, b"b", 1000);
        live.skip(Out, u64::MAX);
        live.push(Out, b"c", 1000);
        let mut bytes = Vec::new();
        live.encode(&mut bytes, usize::MAX);
        let (pieces, ..) = decode(&bytes, 3);
        assert_eq!(
            pieces,
            [
                Piece::Bytes(Out, b"a".to_vec()),
                Piece::Gap(Out, u32::MAX.into()),
                Piece::Gap(Err, 5),
                Piece::Bytes(Out, b"c".to_vec()),
            ]
        );
    }

    #[test]
    fn items_of_any_kind_in_any_pieces() {
        let mut bytes = ALIVE.to_vec();
        put_item(&mut bytes, b'o', b"out");
        put_item(&mut bytes, b'z', b"of a later version");
        bytes.extend_from_slice(b"Z\0\0\0\x09");
        bytes.extend_from_slice(b"E\0\0\0\x09");
        put_item(&mut bytes, b'e', b"\xff\0");
        put_item(&mut bytes, END, b"{}");
        put_item(&mut bytes, b'o', b"too late");
        for step in [1, 2, 7, 1000] {
            let (pieces, end, over) = decode(&bytes, step);
            assert_eq!(
                pieces,
                [
                    Piece::Bytes(Out, b"out".to_vec()),
                    Piece::Gap(Err, 9),
                    Piece::Bytes(Err, b"\xff\0".to_vec()),
                ],
                "{step}"
            );
            assert_eq!((end.as_slice(), over), (&b"{}"[..], true));
        }
        assert!(!decode(b"x\0\0\0\x01", 9).2, "promised, and did not come");
        assert!(decode(b"x\0\0\0\0", 9).2);
    }
}
