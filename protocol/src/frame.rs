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

use std::collections::VecDeque;
use std::fmt;

/// Largest `total` (executor.md §3).
pub const MAX_TOTAL: usize = 16 * 1024 * 1024;
/// Most arguments (executor.md §3).
pub const MAX_ARGS: usize = 256;
/// The field after the last argument that asks for the long form of the response.
pub const EXTENSION: &[u8] = b"ctrl-exec/dropped-1";

const EXTENSION_LEN: usize = 24;

/// One request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Request id, for the log only.
    pub reqid: Vec<u8>,
    /// Dispatcher id, for the log only.
    pub dispatcher: Vec<u8>,
    /// Script name; decoded up to the first NUL byte, as the reference reads it.
    pub script: Vec<u8>,
    /// Bytes for the script's stdin.
    pub stdin: Vec<u8>,
    /// Arguments; each decoded up to its first NUL byte.
    pub args: Vec<Vec<u8>>,
    /// Ask for the long form of the response.
    pub extended: bool,
}

/// Why a request cannot be put into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// More than [`MAX_ARGS`] arguments.
    TooManyArgs,
    /// The frame would pass [`MAX_TOTAL`].
    TooLarge,
    /// The script name or an argument holds a NUL byte: the executor would cut it there.
    NulByte,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyArgs => "more than 256 arguments",
            Self::TooLarge => "request is larger than the executor accepts (16 MiB)",
            Self::NulByte => "script name or argument contains a NUL byte",
        })
    }
}

impl std::error::Error for EncodeError {}

/// What is wrong with received request bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// `total` is zero or over [`MAX_TOTAL`]: close without an answer.
    BadTotal,
    /// The stream ended early: close without an answer.
    Truncated,
    /// The bytes inside `total` do not add up: answer `executor: malformed request`.
    Malformed,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadTotal => "frame length is zero or over 16 MiB",
            Self::Truncated => "frame ended early",
            Self::Malformed => "malformed request",
        })
    }
}

impl std::error::Error for RequestError {}

impl Request {
    /// The frame.
    ///
    /// # Errors
    /// When a receiver would refuse it, or read something else than was meant.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        if self.args.len() > MAX_ARGS {
            return Err(EncodeError::TooManyArgs);
        }
        if self
            .args
            .iter()
            .chain([&self.script])
            .any(|text| text.contains(&0))
        {
            return Err(EncodeError::NulByte);
        }
        let fields = [&self.reqid, &self.dispatcher, &self.script, &self.stdin];
        let extension = if self.extended {
            4 + EXTENSION.len()
        } else {
            0
        };
        let total = fields
            .into_iter()
            .chain(&self.args)
            .try_fold(4 + extension, |sum, field| {
                sum.checked_add(4)?.checked_add(field.len())
            })
            .filter(|total| *total <= MAX_TOTAL)
            .ok_or(EncodeError::TooLarge)?;
        let mut out = Vec::with_capacity(4 + total);
        put_len(&mut out, total);
        for field in fields {
            put_field(&mut out, field);
        }
        put_len(&mut out, self.args.len());
        for arg in &self.args {
            put_field(&mut out, arg);
        }
        if self.extended {
            put_field(&mut out, EXTENSION);
        }
        Ok(out)
    }

    /// Reads the bytes that `total` counts.
    ///
    /// # Errors
    /// [`RequestError::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, RequestError> {
        let mut rest = body;
        let mut field = || take_field(&mut rest).ok_or(RequestError::Malformed);
        let (reqid, dispatcher, script, stdin) = (field()?, field()?, field()?, field()?);
        let argc = take_len(&mut rest).ok_or(RequestError::Malformed)?;
        if argc > MAX_ARGS {
            return Err(RequestError::Malformed);
        }
        let mut args = Vec::with_capacity(argc);
        for _ in 0..argc {
            args.push(until_nul(
                take_field(&mut rest).ok_or(RequestError::Malformed)?,
            ));
        }
        let extended = take_field(&mut rest) == Some(EXTENSION) && rest.is_empty();
        Ok(Self {
            reqid: reqid.to_vec(),
            dispatcher: dispatcher.to_vec(),
            script: until_nul(script),
            stdin: stdin.to_vec(),
            args,
            extended,
        })
    }
}

/// Collects one request from a stream. Memory grows with the bytes that have come, not with the
/// length that was promised.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    header: Vec<u8>,
    body: Vec<u8>,
    total: Option<usize>,
}

impl RequestDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes; returns how many belong to the request.
    ///
    /// # Errors
    /// [`RequestError::BadTotal`] as soon as the length is known to be impossible.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<usize, RequestError> {
        let mut used = 0;
        let total = match self.total {
            Some(total) => total,
            None => {
                let take = bytes.len().min(4 - self.header.len());
                self.header.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                used = take;
                let Some(total) = take_len(&mut self.header.as_slice()) else {
                    return Ok(used);
                };
                if total == 0 || total > MAX_TOTAL {
                    return Err(RequestError::BadTotal);
                }
                *self.total.insert(total)
            }
        };
        let take = bytes.len().min(total - self.body.len());
        self.body.extend_from_slice(&bytes[..take]);
        Ok(used + take)
    }

    /// Whether the whole frame has come.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.body.len())
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.header.is_empty()
    }

    /// The request, when the frame is complete or the stream has ended.
    ///
    /// # Errors
    /// [`RequestError::Truncated`] or [`RequestError::Malformed`].
    pub fn finish(self) -> Result<Request, RequestError> {
        if !self.is_complete() {
            return Err(RequestError::Truncated);
        }
        Request::decode(&self.body)
    }
}

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

/// One response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The script's exit status, 126 when it was killed, -1 when nothing was run.
    pub exit: i32,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error output, or the executor's explanation.
    pub stderr: Output,
}

/// Why there is no response; the texts are the reference front-end's (agent.md §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseError {
    /// The stream ended without a byte.
    Empty,
    /// It ended in the middle.
    Truncated,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "executor closed before responding",
            Self::Truncated => "truncated executor response",
        })
    }
}

impl std::error::Error for ResponseError {}

impl Response {
    /// The answer when nothing is run: exit -1 and one line of explanation (executor.md §4).
    pub fn refusal(message: &str) -> Self {
        let stderr = Output::whole(format!("{message}\n"));
        Self {
            exit: -1,
            stdout: Output::default(),
            stderr,
        }
    }

    /// The bytes to send. `extended` is the request's.
    pub fn encode(&self, extended: bool) -> Vec<u8> {
        let streams = [&self.stdout, &self.stderr];
        let kept = |out: &Output| out.head.len() + out.tail.len();
        let mut bytes = Vec::with_capacity(128 + streams.into_iter().map(kept).sum::<usize>());
        bytes.extend_from_slice(&self.exit.to_be_bytes());
        for stream in streams {
            if extended {
                put_len(&mut bytes, kept(stream));
                bytes.extend_from_slice(&stream.head);
                bytes.extend_from_slice(&stream.tail);
            } else {
                put_field(&mut bytes, &stream.marked());
            }
        }
        if extended {
            for stream in streams {
                bytes.extend_from_slice(&stream.dropped.to_be_bytes());
                put_len(&mut bytes, stream.head.len());
            }
        }
        bytes
    }
}

/// Collects one response from a stream, keeping a bounded part of each output.
///
/// Feed it everything until the end of the stream, then call [`ResponseDecoder::finish`].
#[derive(Debug)]
pub struct ResponseDecoder {
    small: Vec<u8>,
    exit: Option<i32>,
    streams: [Capture; 2],
    /// Bytes of the current stream still to come; none before its length is known.
    left: Option<usize>,
    /// 0 and 1: the streams; 2: what may follow them.
    stage: usize,
    started: bool,
}

impl ResponseDecoder {
    /// A decoder that keeps at most `limit` bytes per stream.
    pub fn new(limit: usize) -> Self {
        Self {
            small: Vec::new(),
            exit: None,
            streams: [Capture::new(limit), Capture::new(limit)],
            left: None,
            stage: 0,
            started: false,
        }
    }

    /// Takes bytes. Whatever comes after a complete response is ignored.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.started |= !bytes.is_empty();
        while !bytes.is_empty() {
            match (self.stage, self.left) {
                (0 | 1, Some(left)) => {
                    let (now, rest) = bytes.split_at(bytes.len().min(left));
                    self.streams[self.stage].push(now);
                    bytes = rest;
                    self.left = Some(left - now.len());
                    self.next_stream();
                }
                (0 | 1, None) => {
                    bytes = self.fill(bytes, 4);
                    if let &[a, b, c, d] = self.small.as_slice() {
                        self.small.clear();
                        self.word([a, b, c, d]);
                    }
                }
                _ => {
                    self.fill(bytes, EXTENSION_LEN);
                    return;
                }
            }
        }
    }

    /// Whether exit and both outputs have come. The peer may still add to it until it closes.
    pub fn is_complete(&self) -> bool {
        self.stage == 2
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.streams.iter().map(Capture::held).sum()
    }

    /// The response, at the end of the stream.
    ///
    /// # Errors
    /// The stream ended too early.
    pub fn finish(self) -> Result<Response, ResponseError> {
        let (2, Some(exit)) = (self.stage, self.exit) else {
            let empty = !self.started;
            return Err(if empty {
                ResponseError::Empty
            } else {
                ResponseError::Truncated
            });
        };
        let [mut stdout, mut stderr] = self.streams.map(Capture::finish);
        if self.small.len() == EXTENSION_LEN {
            let (out, err) = self.small.split_at(EXTENSION_LEN / 2);
            apply_extension(&mut stdout, out);
            apply_extension(&mut stderr, err);
        }
        Ok(Response {
            exit,
            stdout,
            stderr,
        })
    }

    fn fill<'a>(&mut self, bytes: &'a [u8], want: usize) -> &'a [u8] {
        let (now, rest) = bytes.split_at(bytes.len().min(want - self.small.len()));
        self.small.extend_from_slice(now);
        rest
    }

    fn word(&mut self, word: [u8; 4]) {
        if self.exit.is_none() {
            self.exit = Some(i32::from_be_bytes(word));
        } else {
            self.left = take_len(&mut word.as_slice());
            self.next_stream();
        }
    }

    fn next_stream(&mut self) {
        if self.left == Some(0) {
            self.left = None;
            self.stage += 1;
        }
    }
}

/// Adds what the executor dropped to what the decoder dropped. When the decoder had to drop too,
/// its own cut is the one that is kept and both counts add up.
fn apply_extension(output: &mut Output, extension: &[u8]) {
    let (Some((dropped, at)), true) = (extension.split_first_chunk::<8>(), extension.len() == 12)
    else {
        return;
    };
    let dropped = u64::from_be_bytes(*dropped);
    let at = take_len(&mut &at[..]).unwrap_or(0);
    if dropped > 0 && output.dropped == 0 && at <= output.head.len() {
        output.tail = output.head.split_off(at);
    }
    output.dropped = output.dropped.saturating_add(dropped);
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Request {
        Request {
            reqid: b"r".to_vec(),
            dispatcher: b"d".to_vec(),
            script: b"ok".to_vec(),
            args: vec![b"x".to_vec()],
            ..Request::default()
        }
    }

    fn decode_stream(bytes: &[u8], step: usize) -> Result<Request, RequestError> {
        let mut decoder = RequestDecoder::new();
        for chunk in bytes.chunks(step) {
            decoder.push(chunk)?;
        }
        decoder.finish()
    }

    #[test]
    fn the_example_of_the_specification() {
        let expected = b"\0\0\0\x1d\0\0\0\x01r\0\0\0\x01d\0\0\0\x02ok\0\0\0\0\0\0\0\x01\0\0\0\x01x";
        assert_eq!(example().encode().unwrap(), expected);
        for step in [1, 3, 33] {
            assert_eq!(decode_stream(expected, step), Ok(example()));
        }
    }

    #[test]
    fn impossible_requests_are_not_sent() {
        let with = |args: Vec<Vec<u8>>| Request { args, ..example() };
        assert_eq!(
            with(vec![vec![]; 257]).encode(),
            Err(EncodeError::TooManyArgs)
        );
        assert!(with(vec![vec![]; 256]).encode().is_ok());
        assert_eq!(
            with(vec![b"a\0b".to_vec()]).encode(),
            Err(EncodeError::NulByte)
        );
        let large = Request {
            stdin: vec![0; MAX_TOTAL],
            ..example()
        };
        assert_eq!(large.encode(), Err(EncodeError::TooLarge));
        let exact = Request {
            stdin: vec![0; MAX_TOTAL - 29],
            ..example()
        };
        assert_eq!(decode_stream(&exact.encode().unwrap(), 1 << 16), Ok(exact));
    }

    #[test]
    fn bad_totals_are_refused_at_once() {
        for total in [0u32, 16_777_217, u32::MAX] {
            let result = RequestDecoder::new().push(&total.to_be_bytes());
            assert_eq!(result, Err(RequestError::BadTotal));
        }
        let mut decoder = RequestDecoder::new();
        assert_eq!(decoder.push(&16_777_216u32.to_be_bytes()), Ok(4));
        assert_eq!(
            decoder.body.capacity(),
            0,
            "nothing is allocated for a promise"
        );
    }

    #[test]
    fn malformed_bodies() {
        for body in [
            &b"\0\0\x03\xe8abcd"[..],
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x27\x0f",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x32ab",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xff",
        ] {
            assert_eq!(
                Request::decode(body),
                Err(RequestError::Malformed),
                "{body:x?}"
            );
        }
    }

    #[test]
    fn trailing_bytes_are_ignored_unless_they_are_the_extension() {
        let mut frame = example().encode().unwrap();
        let body = frame.split_off(4);
        let with = |tail: &[u8]| Request::decode(&[&body, tail].concat()).unwrap().extended;
        assert!(!with(b""));
        assert!(!with(b"trailing"));
        assert!(with(b"\0\0\0\x13ctrl-exec/dropped-1"));
        assert!(!with(b"\0\0\0\x13ctrl-exec/dropped-1 "));
        let extended = Request {
            extended: true,
            ..example()
        };
        assert_eq!(decode_stream(&extended.encode().unwrap(), 7), Ok(extended));
    }

    #[test]
    fn capture_keeps_both_ends() {
        let mut capture = Capture::new(10);
        for byte in b'a'..=b'z' {
            capture.push(&[byte]);
        }
        let output = capture.finish();
        assert_eq!(
            output,
            Output {
                head: b"abcde".to_vec(),
                tail: b"vwxyz".to_vec(),
                dropped: 16
            }
        );
        assert_eq!(
            output.marked(),
            b"abcde\n[ctrl-exec: 16 bytes dropped]\nvwxyz"
        );
        let mut capture = Capture::new(10);
        capture.push(b"abcdefg");
        capture.push(b"hij");
        assert_eq!(capture.finish(), Output::whole(*b"abcdefghij"));
        let mut capture = Capture::new(0);
        capture.push(b"abc");
        assert_eq!(
            capture.finish(),
            Output {
                dropped: 3,
                ..Output::default()
            }
        );
    }

    #[test]
    fn early_ends_of_a_response() {
        assert_eq!(ResponseDecoder::new(9).finish(), Err(ResponseError::Empty));
        let whole = Response::refusal("no").encode(false);
        for end in 1..whole.len() {
            let mut decoder = ResponseDecoder::new(9);
            decoder.push(&whole[..end]);
            assert!(!decoder.is_complete());
            assert_eq!(decoder.finish(), Err(ResponseError::Truncated), "{end}");
        }
    }

    #[test]
    fn a_shortened_response_in_both_forms() {
        let stdout = Output {
            head: b"ab".to_vec(),
            tail: b"yz".to_vec(),
            dropped: 1 << 40,
        };
        let response = Response {
            exit: -1,
            stdout,
            stderr: Output::whole(*b"e"),
        };
        let decode = |bytes: &[u8], limit| {
            let mut decoder = ResponseDecoder::new(limit);
            decoder.push(bytes);
            decoder.finish().unwrap()
        };
        assert_eq!(decode(&response.encode(true), 100), response);
        let plain = decode(&response.encode(false), 100);
        assert_eq!(
            plain.stdout.head,
            b"ab\n[ctrl-exec: 1099511627776 bytes dropped]\nyz"
        );
        let twice = decode(&response.encode(true), 2).stdout;
        assert_eq!((twice.head, twice.tail), (b"a".to_vec(), b"z".to_vec()));
        assert_eq!(twice.dropped, (1 << 40) + 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes: Vec<u8>, step in 1usize..9) {
            let _ = Request::decode(&bytes);
            let _ = decode_stream(&bytes, step);
        }

        #[test]
        fn requests_survive_the_wire(
            reqid: Vec<u8>, stdin: Vec<u8>,
            script in "[a-z]{0,9}",
            args in prop::collection::vec(prop::collection::vec(1u8.., 0..9), 0..9),
            extended: bool, step in 1usize..40,
        ) {
            let script = script.into_bytes();
            let request =
                Request { reqid, dispatcher: vec![0, 1], script, stdin, args, extended };
            let frame = request.encode().unwrap();
            prop_assert_eq!(decode_stream(&frame, step), Ok(request));
            prop_assert_eq!(decode_stream(&frame[..frame.len() - 1], step), Err(RequestError::Truncated));
        }

        #[test]
        fn responses_survive_the_wire(
            exit: i32, out: Vec<u8>, err: Vec<u8>, limit in 0usize..40, step in 1usize..40,
            extended: bool, junk in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut capture = Capture::new(limit);
            out.chunks(step).for_each(|chunk| capture.push(chunk));
            let stdout = capture.finish();
            prop_assert!(stdout.bytes().len() <= limit);
            let lost = out.len() - stdout.bytes().len();
            prop_assert_eq!(stdout.dropped, lost as u64);
            prop_assert!(out.starts_with(&stdout.head) && out.ends_with(&stdout.tail));
            let response = Response { exit, stdout, stderr: Output::whole(err) };
            let mut decoder = ResponseDecoder::new(1000);
            let mut bytes = response.encode(extended);
            if extended {
                bytes.extend(junk);
            }
            bytes.chunks(step).for_each(|chunk| decoder.push(chunk));
            let decoded = decoder.finish().unwrap();
            prop_assert_eq!(decoded.exit, exit);
            prop_assert_eq!(decoded.stderr, response.stderr);
            if extended {
                prop_assert_eq!(decoded.stdout, response.stdout);
            } else {
                prop_assert_eq!(decoded.stdout.head, response.stdout.marked());
            }
        }

        #[test]
        fn any_bytes_are_a_response_or_refused(bytes: Vec<u8>, limit in 0usize..20, step in 1usize..9) {
            let mut decoder = ResponseDecoder::new(limit);
            bytes.chunks(step).for_each(|chunk| decoder.push(chunk));
            prop_assert!(decoder.held() <= 2 * limit);
            let _ = decoder.finish();
        }
    }
}
