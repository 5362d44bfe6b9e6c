//! The one machine that reads messages, requests and responses alike; what differs between them is
//! their [`Transaction`].

use std::fmt::Debug;

use super::head::{BodyBuffer, HeadBuffer};
use super::{HttpError, Limits};

/// What a message is, and how its head reads.
pub trait Transaction: Debug {
    /// The message that is handed out.
    type Message: Debug + Default;

    /// Whether the end of the connection also ends the head, once its first line is whole.
    const END_ENDS_HEAD: bool;

    /// Looks at the first bytes of a head before it is whole: `seen` bytes came before `input`.
    ///
    /// # Errors
    /// What shows already that this is no such message.
    fn early(seen: usize, input: &[u8]) -> Result<(), HttpError>;

    /// Reads a whole head, its blank line included; the message keeps it for its header lines.
    ///
    /// # Errors
    /// Why it is refused.
    fn read_head(head: Vec<u8>) -> Result<(Self::Message, BodyLength), HttpError>;

    /// Gives a message its body.
    fn set_body(message: &mut Self::Message, body: Vec<u8>);
}

/// How long the body of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Bytes(usize),
    /// As many as come before the end of the connection.
    ToEnd,
    /// It comes in chunks, which are read by [`ChunkedBody`](super::ChunkedBody) where they are
    /// wanted.
    Chunked,
}

/// Reads one message after the other from bytes in pieces of any size.
///
/// ```text
///          push                     push                  take
///  Head ──────────► Body, ToEnd ──────────► Complete ──────────► Head
///    │  end of head   │     length reached      ▲
///    │                └─────────────────────────┘ finish (ToEnd)
///    └──► Failed(error) from everywhere; it stays
/// ```
#[derive(Debug)]
pub struct Parser<T: Transaction> {
    limits: Limits,
    state: State,
    head: HeadBuffer,
    body: BodyBuffer,
    message: T::Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(BodyLength),
    Complete,
    Failed(HttpError),
}

impl<T: Transaction> Parser<T> {
    /// A parser at the start of its first message.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Head,
            head: HeadBuffer::default(),
            body: BodyBuffer::default(),
            message: T::Message::default(),
        }
    }

    /// Bounds the bodies of messages whose head has not been read yet.
    pub fn limit_body(&mut self, max_body: usize) {
        self.limits.max_body = max_body;
    }

    /// Takes bytes of the message that is being read and returns how many it used; the rest
    /// belongs to the next message, to be pushed again after [`Parser::take`].
    ///
    /// # Errors
    /// The fault of this message, at the first byte that shows it. It stays.
    pub fn push(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let result = self.push_inner(input);
        self.note(result)
    }

    fn push_inner(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            match self.state {
                State::Head => {
                    T::early(self.head.bytes().len(), rest)?;
                    let pushed = self.head.push(rest, &self.limits)?;
                    used += pushed.used;
                    if !pushed.complete {
                        return Ok(used);
                    }
                    self.end_of_head()?;
                }
                State::Body(BodyLength::Bytes(length)) => {
                    let missing = length.saturating_sub(self.body.bytes.len());
                    let (now, _) = rest.split_at(rest.len().min(missing));
                    self.body.push(now, Some(length));
                    used += now.len();
                    if now.len() < missing {
                        return Ok(used);
                    }
                    self.state = State::Complete;
                }
                State::Body(BodyLength::ToEnd) => {
                    let room = self.limits.max_body.saturating_sub(self.body.bytes.len());
                    if rest.len() > room {
                        return Err(HttpError::BodyTooLarge);
                    }
                    self.body.push(rest, None);
                    return Ok(input.len());
                }
                State::Complete | State::Body(BodyLength::Chunked) => return Ok(used),
                State::Failed(error) => return Err(error),
            }
        }
    }

    /// The body that comes now is in chunks: its bytes are not for [`Parser::push`].
    pub fn is_chunked(&self) -> bool {
        self.state == State::Body(BodyLength::Chunked)
    }

    /// That body has been read. The message has none then.
    pub fn end_chunked(&mut self) {
        if self.is_chunked() {
            self.state = State::Complete;
        }
    }

    /// Says that no more bytes will come, which completes a message without a length.
    ///
    /// # Errors
    /// [`HttpError::Empty`] when nothing was said, [`HttpError::Truncated`] when the message is not
    /// whole, and the faults of [`Parser::push`].
    pub fn finish(&mut self) -> Result<(), HttpError> {
        let result = self.finish_inner();
        self.note(result)
    }

    fn finish_inner(&mut self) -> Result<(), HttpError> {
        if self.state == State::Head {
            if self.head.bytes().is_empty() {
                return Err(HttpError::Empty);
            }
            if !T::END_ENDS_HEAD || !self.head.bytes().contains(&b'\n') {
                return Err(HttpError::Truncated);
            }
            self.end_of_head()?;
        }
        match self.state {
            State::Complete => {}
            State::Body(BodyLength::ToEnd | BodyLength::Bytes(0)) => self.state = State::Complete,
            State::Head | State::Body(_) => return Err(HttpError::Truncated),
            State::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// A message is ready to be taken.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The head of a message has been read; its body is on the way or complete.
    pub fn is_past_head(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Complete)
    }

    /// Nothing of a message has been read yet.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.head.bytes().is_empty()
    }

    /// The message, if complete; the parser then stands at the start of the next one.
    pub fn take(&mut self) -> Option<T::Message> {
        if self.state != State::Complete {
            return None;
        }
        self.state = State::Head;
        let mut message = std::mem::take(&mut self.message);
        T::set_body(&mut message, std::mem::take(&mut self.body.bytes));
        Some(message)
    }

    /// Heap bytes held for the head and body that are being read.
    pub fn buffered(&self) -> usize {
        self.head.bytes().len() + self.body.bytes.capacity()
    }

    /// A fault stays, and gives the memory back.
    fn note<R>(&mut self, result: Result<R, HttpError>) -> Result<R, HttpError> {
        if let Err(error) = result {
            self.state = State::Failed(error);
            self.head = HeadBuffer::default();
            self.body = BodyBuffer::default();
            self.message = T::Message::default();
        }
        result
    }

    fn end_of_head(&mut self) -> Result<(), HttpError> {
        let (message, length) = T::read_head(self.head.take())?;
        if matches!(length, BodyLength::Bytes(length) if length > self.limits.max_body) {
            return Err(HttpError::BodyTooLarge);
        }
        self.message = message;
        self.state = State::Body(length);
        Ok(())
    }
}
