//! Peers of release 0.12.3, as the real ones were seen to behave on the wire (docs/compat).
//!
//! What matters to a peer of theirs is not what they say but how they read and close:
//! - a handshake and its two session tickets are one blocking step of the process that accepts, and
//!   the tickets may come late;
//! - a body is fetched with a single TLS read, which gives at most one record;
//! - answers are HTTP/1.0, and where one is given before the request was read, closing with unread
//!   data resets the connection and the answer may be lost.

mod agent;
mod caller;
mod pairing;
mod tls;

pub use agent::{Agent, AgentBuilder, Output};
pub use caller::{Answer, Dispatcher};
pub use pairing::{Listener, request_pairing, sign};

/// Text as the reference sends it where it does not decode its command line, or where the executor
/// gave it bytes: each byte as one character.
pub fn bytes_as_text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The way back; `None` where a character is no byte.
pub fn text_as_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(c).ok()).collect()
}

/// A response as 0.12.3 writes it: these headers in this order, and no others.
fn response(status: u16, body: &str) -> Vec<u8> {
    let phrase = match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Unknown",
    };
    let length = body.len();
    format!(
        "HTTP/1.0 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
