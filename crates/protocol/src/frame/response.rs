//! Responses of the executor, and their piecewise reading by the front-end.

use std::fmt;

use super::*;
use crate::live::{Decoder, Found};

/// One response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The script's exit status, 126 when it was killed, -1 when nothing was run.
    pub exit: i32,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error output, or the executor's explanation.
    pub stderr: Output,
    /// How the script ended; none when the executor does not tell.
    pub ended: Option<Ended>,
}

/// What `exit` cannot say about a script's end. On the wire: `i32 signal`, then `u32` flags of
/// which bit 0 is `oom`, bit 1 `time_limit`, bit 2 `cancelled`; further bits are ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// The signal that ended the script.
    pub signal: Option<i32>,
    /// The kernel killed a process of the run for want of memory.
    pub oom: bool,
    /// The executor ended it because its time was over.
    pub time_limit: bool,
    /// The executor ended it because the front-end asked.
    pub cancelled: bool,
}

impl Ended {
    fn encode(self, bytes: &mut Vec<u8>) {
        let flags = [self.oom, self.time_limit, self.cancelled];
        let flags = flags
            .iter()
            .zip(0..)
            .fold(0u32, |sum, (flag, bit)| sum | u32::from(*flag) << bit);
        bytes.extend_from_slice(&self.signal.unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (signal, rest) = bytes.split_first_chunk::<4>()?;
        let flags = u32::from_be_bytes(*rest.first_chunk::<4>()?);
        let signal = i32::from_be_bytes(*signal);
        Some(Self {
            signal: (signal > 0).then_some(signal),
            oom: flags & 1 != 0,
            time_limit: flags & 2 != 0,
            cancelled: flags & 4 != 0,
        })
    }
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
            ended: None,
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
            if let Some(ended) = self.ended {
                ended.encode(&mut bytes);
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
    /// It comes as items of output.
    live: Option<Decoder>,
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
            live: None,
        }
    }

    /// Takes bytes. Whatever comes after a complete response is ignored, and so is output that
    /// comes before it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.push_live(bytes, &mut |_| ());
    }

    /// As [`ResponseDecoder::push`], where `output` is told what comes before the response.
    pub fn push_live(&mut self, bytes: &[u8], output: &mut dyn FnMut(Found<'_>)) {
        self.started |= !bytes.is_empty();
        let rest = match self.live {
            Some(_) => bytes,
            None => self.take(bytes),
        };
        let Some(mut live) = self.live.take() else {
            return;
        };
        live.push(rest, &mut |found| match found {
            Found::End(bytes) => {
                self.take(bytes);
            }
            found => output(found),
        });
        self.live = Some(live);
    }

    /// Takes bytes of the usual form; the rest is left where it turns out to be another.
    fn take<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
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
                        let word = [a, b, c, d];
                        if word == LIVE_MARK && self.exit.is_none() {
                            self.live = Some(Decoder::default());
                            return bytes;
                        }
                        self.word(word);
                    }
                }
                _ => {
                    self.fill(bytes, TRAILER_LEN);
                    break;
                }
            }
        }
        &[]
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
        let mut ended = None;
        if self.small.len() >= SHORT_TRAILER_LEN {
            let (dropped, end) = self.small.split_at(SHORT_TRAILER_LEN);
            let (out, err) = dropped.split_at(SHORT_TRAILER_LEN / 2);
            apply_dropped(&mut stdout, out);
            apply_dropped(&mut stderr, err);
            ended = Ended::decode(end);
        }
        Ok(Response {
            exit,
            stdout,
            stderr,
            ended,
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
fn apply_dropped(output: &mut Output, trailer: &[u8]) {
    let (Some((dropped, at)), true) = (trailer.split_first_chunk::<8>(), trailer.len() == 12)
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
