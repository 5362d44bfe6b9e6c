//! Output of a script, kept within a fixed number of bytes: its beginning and its end.

use std::collections::VecDeque;

/// What a script wrote to one stream: all of it, or its beginning and end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// The beginning; everything when nothing was dropped.
    pub head: Vec<u8>,
    /// The end, when bytes were dropped.
    pub tail: Vec<u8>,
    /// How many bytes are missing between the two.
    pub dropped: u64,
}

impl Captured {
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

    /// As [`Captured::bytes`], without a copy when nothing was dropped.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.head;
        bytes.extend_from_slice(&self.tail);
        bytes
    }

    /// As [`Captured::bytes`], with a line of its own in place of dropped bytes.
    pub fn marked(&self) -> Vec<u8> {
        if self.dropped == 0 {
            return self.bytes();
        }
        let line = format!("\n[ctrl-exec: {} bytes dropped]\n", self.dropped);
        [self.head.as_slice(), line.as_bytes(), self.tail.as_slice()].concat()
    }
}

/// Keeps the first bytes of a stream, and the last of what follows them.
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
        let tail = limit / 2;
        Self::of(limit - tail, tail)
    }

    /// Keeps at most so many bytes of the beginning and of the end.
    pub fn of(head: usize, tail: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_max: head,
            tail_max: tail,
            dropped: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.push_within(bytes, usize::MAX);
    }

    /// As [`Capture::push`], where all captures together may still grow by `room` bytes. Where that
    /// is short this one stays as large as it is, and keeps the newest in place of the older.
    pub fn push_within(&mut self, bytes: &[u8], room: usize) {
        let needed = self.head.len() + bytes.len();
        self.head_max = affordable(self.head.capacity(), needed, self.head_max, room);
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_max - self.head.len()));
        let more = growth(
            self.head.len(),
            self.head.capacity(),
            head.len(),
            affordable(self.head.capacity(), usize::MAX, self.head_max, room),
        );
        self.head.reserve_exact(more);
        self.head.extend_from_slice(head);
        let needed = self.tail.len() + rest.len();
        self.tail_max = affordable(self.tail.capacity(), needed, self.tail_max, room);
        // Of a piece that is longer than the tail only its own end counts.
        let (lost, rest) = rest.split_at(rest.len().saturating_sub(self.tail_max));
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..excess);
        let more = growth(
            self.tail.len(),
            self.tail.capacity(),
            rest.len(),
            affordable(self.tail.capacity(), usize::MAX, self.tail_max, room),
        );
        self.tail.reserve_exact(more);
        self.tail.extend(rest);
        self.dropped = self.dropped.saturating_add((lost.len() + excess) as u64);
    }

    /// Says that so many bytes are missing here. There is one gap only: what came after an earlier
    /// one is missing too then.
    pub fn skip(&mut self, missing: u64) {
        if missing == 0 {
            return;
        }
        self.head_max = self.head.len();
        let lost = missing.saturating_add(self.tail.len() as u64);
        self.dropped = self.dropped.saturating_add(lost);
        self.tail.clear();
    }

    /// Bytes of memory held now.
    pub fn held(&self) -> usize {
        self.head.capacity() + self.tail.capacity()
    }

    /// What was kept.
    pub fn finish(mut self) -> Captured {
        if self.dropped == 0 {
            self.head.reserve_exact(self.tail.len());
            self.head.extend(self.tail.drain(..));
        }
        Captured {
            head: self.head,
            tail: self.tail.into(),
            dropped: self.dropped,
        }
    }
}

/// Bytes that each of the two buffers of a stream may have, however little room there is.
const FLOOR: usize = 2048;

/// The limit from here on of a buffer that is to hold `needed`: lower than it was when growing so
/// far would take too much of the room, but never below what every buffer may have.
fn affordable(capacity: usize, needed: usize, limit: usize, room: usize) -> usize {
    let most = capacity.saturating_add(room / 4).max(FLOOR).min(limit);
    if needed.min(limit) > most {
        most
    } else {
        limit
    }
}

/// What to reserve beyond `len` so that `adding` more fit: doubled, as vectors do it, but never
/// beyond the limit, which memory budgets count on.
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
        let mut capture = Capture::of(head, tail);
        pieces.iter().for_each(|piece| capture.push(piece));
        assert!(capture.held() <= head + tail);
        let captured = capture.finish();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(captured.head), text(captured.tail), captured.dropped)
    }

    #[test]
    fn table() {
        let got = |h, t, p: &[&[u8]]| capture(h, t, p);
        assert_eq!(got(4, 4, &[b"abc"]), ("abc".into(), "".into(), 0));
        assert_eq!(got(4, 4, &[b"abcdefgh"]), ("abcdefgh".into(), "".into(), 0));
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

    #[test]
    fn gaps_of_others_become_one() {
        let mut capture = Capture::of(10, 10);
        capture.push(b"ab");
        capture.skip(0);
        capture.push(b"c");
        capture.skip(5);
        capture.push(b"lost");
        capture.skip(7);
        capture.push(b"end");
        let got = capture.finish();
        assert_eq!(
            (got.head.as_slice(), got.tail.as_slice()),
            (&b"abc"[..], &b"end"[..])
        );
        assert_eq!(got.dropped, 16);
    }

    #[test]
    fn without_room_it_stays_small_and_keeps_the_ends() {
        let mut capture = Capture::of(100_000, 100_000);
        for n in 0..10_000_u32 {
            capture.push_within(format!("{n:09}\n").as_bytes(), 0);
        }
        assert!(capture.held() <= 2 * FLOOR, "{}", capture.held());
        let captured = capture.finish();
        assert!(captured.head.starts_with(b"000000000\n"));
        assert!(captured.tail.ends_with(b"000009999\n"));
        assert!(captured.head.len() >= FLOOR - 10 && captured.tail.len() >= FLOOR - 10);
        let kept = captured.head.len() + captured.tail.len();
        assert_eq!(captured.dropped, 100_000 - kept as u64);
        // It grows with what is there, a part at a time.
        let mut capture = Capture::of(100_000, 0);
        let mut room = 40_000;
        for _ in 0..100 {
            let before = capture.held();
            capture.push_within(&[b'x'; 1000], room);
            room -= capture.held() - before;
        }
        assert!(
            (10_000..=40_000).contains(&capture.held()),
            "{}",
            capture.held()
        );
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_whole(
            data in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            cuts in proptest::collection::vec(1usize..40, 1..20),
            head in 0usize..100,
            tail in 0usize..100,
        ) {
            let mut capture = Capture::of(head, tail);
            let mut rest = data.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at(rest.len().min(*cut));
                capture.push(piece);
                rest = left;
                if rest.is_empty() { break; }
            }
            let got = capture.finish();
            if data.len() <= head + tail {
                proptest::prop_assert_eq!(got, Captured::whole(data));
            } else {
                proptest::prop_assert_eq!(&got.head, &data[..head]);
                proptest::prop_assert_eq!(&got.tail, &data[data.len() - tail..]);
                proptest::prop_assert_eq!(got.dropped, (data.len() - head - tail) as u64);
            }
        }
    }
}
