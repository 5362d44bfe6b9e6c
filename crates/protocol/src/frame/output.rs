//! Output of a script, kept within a fixed number of bytes.

use std::collections::VecDeque;

use super::len_u64;

/// What a script wrote to one stream: all of it, or its beginning and end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The beginning; everything when nothing was dropped.
    pub head: Vec<u8>,
    /// The end, when bytes were dropped.
    pub tail: Vec<u8>,
    /// How many bytes are missing between the two.
    pub dropped: u64,
}

impl Output {
    /// Output of which nothing was dropped.
    pub fn whole(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            head: bytes.into(),
            tail: Vec::new(),
            dropped: 0,
        }
    }

    /// The bytes that were kept, in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), self.tail.as_slice()].concat()
    }

    /// Like [`Output::bytes`], with a line of its own in place of dropped bytes.
    pub fn marked(&self) -> Vec<u8> {
        if self.dropped == 0 {
            return self.bytes();
        }
        let line = format!("\n[ctrl-exec: {} bytes dropped]\n", self.dropped);
        [self.head.as_slice(), line.as_bytes(), self.tail.as_slice()].concat()
    }
}

/// Keeps the beginning and the end of a stream within a fixed number of bytes.
#[derive(Debug)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_max: usize,
    tail_max: usize,
    dropped: u64,
}

impl Capture {
    /// Keeps at most `limit` bytes, half of them from the beginning.
    pub fn new(limit: usize) -> Self {
        let tail_max = limit / 2;
        let head_max = limit - tail_max;
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_max,
            tail_max,
            dropped: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_max - self.head.len()));
        self.head.extend_from_slice(head);
        let (skipped, rest) = rest.split_at(rest.len().saturating_sub(self.tail_max));
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..excess);
        self.tail.extend(rest);
        self.dropped = self.dropped.saturating_add(len_u64(skipped.len() + excess));
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// What was kept.
    pub fn finish(mut self) -> Output {
        if self.dropped == 0 {
            self.head.extend(self.tail.drain(..));
        }
        Output {
            head: self.head,
            tail: self.tail.into(),
            dropped: self.dropped,
        }
    }
}
