//! Bounded HTTP/1 framing, as the agent, the pairing listener and their clients speak it.
//!
//! The parsers are fed with whatever bytes arrived and say how many of them they used, so that
//! they work over any transport and never hold more than [`Limits`] allows. Requests are read as
//! leniently as the reference reads them (agent.md §1.3) and no more; responses are read with
//! `httparse`. One machine ([`Parser`]) does both; their [`Transaction`] says what differs. A
//! body in chunks is refused, but for a response whose reader says otherwise ([`ChunkedBody`]).
//!
//! ```
//! use ctrl_exec_protocol::http::{Limits, RequestParser, render_response};
//!
//! let mut parser = RequestParser::new(Limits::default());
//! let bytes = b"POST /ping HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";
//! assert_eq!(parser.push(bytes), Ok(bytes.len()));
//! let request = parser.take().unwrap();
//! assert_eq!((&*request.method(), &*request.path()), ("POST", "/ping"));
//! let answer = render_response(200, "{}", request.keep_alive);
//! assert!(answer.starts_with(b"HTTP/1.0 200 OK\r\n"));
//! ```

mod chunked;
mod head;
mod headers;
mod message;
mod render;
mod request;
mod response;

use std::borrow::Cow;
use std::fmt;

pub use chunked::{ChunkedBody, begin_chunk, end_chunk, live_head};
pub use headers::Headers;
pub use message::{BodyLength, Parser, Transaction};
pub use render::{ResponseHead, into_response, phrase, render_request, render_response};
pub use request::{RequestParser, Requests};
pub use response::{ResponseParser, Responses};

/// How much of one message is accepted. Every value is inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the head: first line, header lines and the blank line.
    pub max_head: usize,
    /// Header lines, the first line not counted.
    pub max_headers: usize,
    /// Bytes of the body.
    pub max_body: usize,
}

impl Limits {
    /// What the agent accepts in a request (agent.md §1.2): 32 header lines, 1,048,576 body bytes.
    /// The reference has no limit on the head; ours is 16 KiB.
    pub const AGENT_REQUEST: Limits = Limits {
        max_head: 16 * 1024,
        max_headers: 32,
        max_body: 1_048_576,
    };
    /// What the pairing listener accepts (pki-and-pairing.md §7.3): 65,536 body bytes.
    pub const PAIRING_REQUEST: Limits = Limits {
        max_head: 8 * 1024,
        max_headers: 32,
        max_body: 65_536,
    };
    /// What a dispatcher accepts from an agent: 64 MiB, since the reference's agents put no limit
    /// on the output of a script.
    pub const AGENT_RESPONSE: Limits = Limits {
        max_head: 16 * 1024,
        max_headers: 64,
        max_body: 64 * 1024 * 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::AGENT_REQUEST
    }
}

/// A complete request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The client asked for `Connection: keep-alive` and its framing was beyond doubt.
    pub keep_alive: bool,
    /// The header lines.
    pub headers: Headers,
    /// The body, empty when none was announced.
    pub body: Vec<u8>,
}

impl Request {
    /// First word of the request line, as sent: the comparison is case-sensitive.
    pub fn method(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.headers.first_line_word(0))
    }

    /// Whether the request line names HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.headers.first_line_word(2) == b"HTTP/1.0"
    }

    /// Whether the request line names HTTP/1.1, whose connections stay open unless said otherwise.
    pub fn is_http_11(&self) -> bool {
        self.headers.first_line_word(2) == b"HTTP/1.1"
    }

    /// Second word of the request line, as sent; empty when there was none.
    pub fn path(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.headers.first_line_word(1))
    }
}

/// A complete response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code, 200 to 599.
    pub status: u16,
    /// The words after the status code.
    pub reason: String,
    /// The server will take another request on this connection.
    pub keep_alive: bool,
    /// The header lines.
    pub headers: Headers,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the status line names HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.headers.first_line_word(0) == b"HTTP/1.0"
    }
}

/// Why a message was refused. Once a parser has refused, it refuses all that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// `Content-Length` is negative (request), not a number or contradictory (response).
    BadContentLength,
    /// The announced or received body is larger than [`Limits::max_body`].
    BodyTooLarge,
    /// The connection ended, or the first line was blank, before anything was said.
    Empty,
    /// The head is larger than [`Limits::max_head`].
    HeadTooLarge,
    /// Not HTTP; the text says what is wrong.
    Malformed(&'static str),
    /// The receiver has no memory left for this body just now.
    Overloaded,
    /// More header lines than [`Limits::max_headers`].
    TooManyHeaders,
    /// The connection ended inside the message.
    Truncated,
    /// `Transfer-Encoding` is not supported.
    UnsupportedTransferEncoding,
}

impl HttpError {
    /// The status with which a server answers this fault (agent.md §1.2).
    pub fn status(self) -> u16 {
        match self {
            HttpError::BodyTooLarge => 413,
            HttpError::HeadTooLarge | HttpError::TooManyHeaders => 431,
            HttpError::Overloaded => 503,
            HttpError::BadContentLength
            | HttpError::Empty
            | HttpError::Malformed(_)
            | HttpError::Truncated
            | HttpError::UnsupportedTransferEncoding => 400,
        }
    }

    /// The value of `error` in the body of that answer (agent.md §1.2 where the reference has
    /// the case).
    pub fn message(self) -> &'static str {
        match self {
            HttpError::BadContentLength => "bad content length",
            HttpError::BodyTooLarge => "request too large",
            HttpError::Empty => "empty request",
            HttpError::HeadTooLarge => "request head too large",
            HttpError::Malformed(_) => "malformed request",
            HttpError::Overloaded => "out of memory, try again later",
            HttpError::TooManyHeaders => "too many headers",
            HttpError::Truncated => "incomplete request",
            HttpError::UnsupportedTransferEncoding => "transfer encoding not supported",
        }
    }

    /// The whole JSON body of that answer.
    pub fn body(self) -> String {
        // The messages above hold nothing that JSON would have to escape.
        format!("{{\"error\":\"{}\"}}", self.message())
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HttpError::BadContentLength => "bad Content-Length",
            HttpError::BodyTooLarge => "message body too large",
            HttpError::Empty => "empty message",
            HttpError::HeadTooLarge => "message head too large",
            HttpError::Malformed(what) => what,
            HttpError::Overloaded => "out of buffer memory",
            HttpError::TooManyHeaders => "too many header lines",
            HttpError::Truncated => "incomplete message",
            HttpError::UnsupportedTransferEncoding => "unsupported Transfer-Encoding",
        })
    }
}

impl std::error::Error for HttpError {}
