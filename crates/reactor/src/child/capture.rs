//! The beginning and the end of an output stream.

use std::collections::VecDeque;

use super::Captured;

/// Keeps the first `head` bytes and the last `tail` bytes of what follows them.
#[derive(Debug)]
pub(super) struct Capture {
    head_limit: usize,
    tail_limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Capture {
    pub fn new(head_limit: usize, tail_limit: usize) -> Self {
        Capture {
            head_limit,
            tail_limit,
            head: Vec::new(),
            tail: VecDeque::new(),
            dropped: 0,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        let more = growth(
            self.head.len(),
            self.head.capacity(),
            head.len(),
            self.head_limit,
        );
        self.head.reserve_exact(more);
        self.head.extend_from_slice(head);
        // Of a piece that is longer than the tail only its own end counts.
        let (lost, rest) = rest.split_at(rest.len().saturating_sub(self.tail_limit));
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..excess);
        let more = growth(
            self.tail.len(),
            self.tail.capacity(),
            rest.len(),
            self.tail_limit,
        );
        self.tail.reserve_exact(more);
        self.tail.extend(rest);
        self.dropped = self.dropped.saturating_add((lost.len() + excess) as u64);
    }

    pub fn held(&self) -> usize {
        self.head.capacity() + self.tail.capacity()
    }

    pub fn finish(self) -> Captured {
        Captured {
            head: self.head,
            tail: self.tail.into(),
            dropped: self.dropped,
        }
    }
}

/// What to reserve beyond `len` so that `adding` more fit: doubled, as vectors do it, but never
/// beyond the limit, which the memory budget counts on.
fn growth(len: usize, capacity: usize, adding: usize, limit: usize) -> usize {
    let needed = len + adding;
    if needed <= capacity {
        return 0;
    }
    needed.saturating_mul(2).min(limit).max(needed) - len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(head: usize, tail: usize, pieces: &[&[u8]]) -> (String, String, u64) {
        let mut capture = Capture::new(head, tail);
        pieces.iter().for_each(|piece| capture.push(piece));
        let captured = capture.finish();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(captured.head), text(captured.tail), captured.dropped)
    }

    #[test]
    fn table() {
        let got = |h, t, p: &[&[u8]]| capture(h, t, p);
        assert_eq!(got(4, 4, &[b"abc"]), ("abc".into(), "".into(), 0));
        assert_eq!(got(4, 4, &[b"abcdefgh"]), ("abcd".into(), "efgh".into(), 0));
        assert_eq!(
            got(4, 4, &[b"abcdefghi"]),
            ("abcd".into(), "fghi".into(), 1)
        );
        assert_eq!(
            got(4, 2, &[b"ab", b"cdef", b"g", b"hijkl"]),
            ("abcd".into(), "kl".into(), 6)
        );
        assert_eq!(got(0, 0, &[b"abc"]), ("".into(), "".into(), 3));
        assert_eq!(got(2, 0, &[b"a", b"bc"]), ("ab".into(), "".into(), 1));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_whole(
            data in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            cuts in proptest::collection::vec(1usize..40, 1..20),
            head in 0usize..100,
            tail in 0usize..100,
        ) {
            let mut capture = Capture::new(head, tail);
            let mut rest = data.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at(rest.len().min(*cut));
                capture.push(piece);
                rest = left;
                if rest.is_empty() { break; }
            }
            let got = capture.finish();
            let first = data.len().min(head);
            let last = (data.len() - first).min(tail);
            proptest::prop_assert_eq!(&got.head, &data[..first]);
            proptest::prop_assert_eq!(&got.tail, &data[data.len() - last..]);
            proptest::prop_assert_eq!(got.dropped, (data.len() - first - last) as u64);
        }
    }
}
