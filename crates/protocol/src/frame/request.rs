//! Requests of the front-end, and their piecewise reading by the executor.

use std::fmt;

use super::*;

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
    /// Seconds after which the script is to be ended; none = as the executor's configuration says.
    pub time_limit: Option<u32>,
    /// Ask for output while it comes.
    pub live: bool,
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
        let extensions = self.extensions();
        let total = fields
            .into_iter()
            .chain(&self.args)
            .chain(&extensions)
            .try_fold(4usize, |sum, field| {
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
        for field in self.args.iter().chain(&extensions) {
            put_field(&mut out, field);
        }
        Ok(out)
    }

    fn extensions(&self) -> Vec<Vec<u8>> {
        let mut fields = Vec::new();
        if self.extended {
            fields.push(EXTENSION.to_vec());
        }
        if let Some(seconds) = self.time_limit {
            fields.push([TIME_LIMIT, seconds.to_string().as_bytes()].concat());
        }
        if self.live {
            fields.push(LIVE.to_vec());
        }
        fields
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
        let asked = read_extensions(rest).unwrap_or_default();
        Ok(Self {
            reqid: reqid.to_vec(),
            dispatcher: dispatcher.to_vec(),
            script: until_nul(script),
            stdin: stdin.to_vec(),
            args,
            ..asked
        })
    }
}

/// The fields after the last argument. None when the bytes are not fields to the end: then they are
/// something else, and ignored as a whole.
fn read_extensions(mut rest: &[u8]) -> Option<Request> {
    let mut asked = Request::default();
    for _ in 0..MAX_EXTENSIONS {
        if rest.is_empty() {
            break;
        }
        let field = take_field(&mut rest)?;
        if field == EXTENSION {
            asked.extended = true;
        } else if field == LIVE {
            asked.live = true;
        } else if let Some(digits) = field.strip_prefix(TIME_LIMIT) {
            asked.time_limit = decimal(digits).filter(|seconds| *seconds > 0);
        }
    }
    rest.is_empty().then_some(asked)
}

/// A number; what is too large to express means the largest.
fn decimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u32, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    };
    Some(digits.iter().fold(0, add))
}

/// The beginning of a request: enough to decide whether the rest is worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Request id.
    pub reqid: &'a [u8],
    /// Dispatcher id.
    pub dispatcher: &'a [u8],
    /// Script name, up to the first NUL byte.
    pub script: &'a [u8],
    /// Bytes of the frame after the length of stdin: stdin, arguments, extensions.
    pub rest: usize,
}

/// Collects one request from a stream. Memory grows with the bytes that have come, not with the
/// length that was promised.
///
/// A receiver that wants to hold little looks at [`RequestDecoder::head`] after each piece and
/// calls [`RequestDecoder::skip`] for a request that it will refuse.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    header: Vec<u8>,
    pub(super) body: Vec<u8>,
    received: usize,
    total: Option<usize>,
    skipping: bool,
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
        let take = bytes.len().min(total - self.received);
        self.received += take;
        if !self.skipping {
            self.body.extend_from_slice(&bytes[..take]);
        }
        Ok(used + take)
    }

    /// The head, once it has come.
    ///
    /// # Errors
    /// [`RequestError::Malformed`]: it does not end within [`MAX_HEAD`] bytes, or was skipped.
    pub fn head(&self) -> Result<Option<Head<'_>>, RequestError> {
        let mut rest = self.body.as_slice();
        let mut head = || {
            let fields = (
                take_field(&mut rest)?,
                take_field(&mut rest)?,
                take_field(&mut rest)?,
            );
            take_len(&mut rest)?;
            Some(fields)
        };
        match head() {
            Some((reqid, dispatcher, script)) => {
                let before = self.body.len() - rest.len();
                if before > MAX_HEAD {
                    return Err(RequestError::Malformed);
                }
                let end = script.iter().position(|byte| *byte == 0);
                Ok(Some(Head {
                    reqid,
                    dispatcher,
                    script: &script[..end.unwrap_or(script.len())],
                    rest: self.total.unwrap_or(before).saturating_sub(before),
                }))
            }
            None if self.skipping || self.body.len() > MAX_HEAD => Err(RequestError::Malformed),
            None => Ok(None),
        }
    }

    /// Forgets what has come and keeps nothing of what will: only the end of the frame is still
    /// waited for.
    pub fn skip(&mut self) {
        self.skipping = true;
        self.body = Vec::new();
    }

    /// Whether the whole frame has come.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.received)
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

/// Looks for [`CANCEL`] in what a front-end sends after its frame. Anything else, or anything
/// before it, means nothing, now and later.
#[derive(Debug, Default)]
pub struct CancelDecoder {
    matched: usize,
    other: bool,
}

impl CancelDecoder {
    /// Takes bytes; whether the front-end has asked for the end of the script by now.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if self.other || self.matched == CANCEL.len() {
                break;
            }
            if CANCEL.get(self.matched) == Some(byte) {
                self.matched += 1;
            } else {
                self.other = true;
            }
        }
        self.matched == CANCEL.len()
    }
}
