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
    pub(super) body: Vec<u8>,
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
