//! Messages as bytes.

use std::fmt::Write;

use super::headers::is_token;

/// The reason phrase sent with `status` (agent.md §1.3 where the reference has the status).
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}

/// What a response says before its body.
///
/// ```
/// use ctrl_exec_protocol::http::ResponseHead;
/// let head = ResponseHead {
///     content_type: Some("text/event-stream"),
///     headers: &[("Cache-Control", "no-store")],
///     ..ResponseHead::new(200)
/// };
/// assert_eq!(
///     head.render(None),
///     b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n"
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status code.
    pub status: u16,
    /// The type of the body, if there is one.
    pub content_type: Option<&'a str>,
    /// Further header lines. Characters that would end or forge a line are left out of them.
    pub headers: &'a [(&'a str, &'a str)],
    /// The connection stays for another request. A body without a length rules that out.
    pub keep_alive: bool,
}

impl ResponseHead<'_> {
    /// A head with this status and nothing else.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            content_type: None,
            headers: &[],
            keep_alive: false,
        }
    }

    /// The head as bytes. `length`: that of the body; `None` for one that ends with the connection.
    pub fn render(&self, length: Option<usize>) -> Vec<u8> {
        let mut head = String::with_capacity(HEAD_SIZE);
        // Writing to a string cannot fail.
        let _ = self.write(&mut head, length);
        head.into_bytes()
    }

    /// Head and body in one buffer, so that they leave in one TLS record while they fit.
    pub fn render_with(&self, body: &[u8]) -> Vec<u8> {
        let mut head = String::with_capacity(HEAD_SIZE + body.len());
        let _ = self.write(&mut head, Some(body.len()));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    fn write(&self, out: &mut impl Write, length: Option<usize>) -> std::fmt::Result {
        let keep_alive = self.keep_alive && length.is_some();
        let version = if keep_alive { "1.1" } else { "1.0" };
        write!(
            out,
            "HTTP/{version} {} {}\r\n",
            self.status,
            phrase(self.status)
        )?;
        if let Some(kind) = self.content_type {
            line(out, "Content-Type", kind)?;
        }
        if let Some(length) = length {
            write!(out, "Content-Length: {length}\r\n")?;
        }
        if keep_alive {
            out.write_str("Connection: keep-alive\r\n")?;
        }
        for (name, value) in self.headers {
            line(out, name, value)?;
        }
        out.write_str("\r\n")
    }
}

/// Room for the heads that we usually write, so that they cost one allocation.
const HEAD_SIZE: usize = 128;

/// A header line; whatever could end it early, or its name, is left out.
fn line(out: &mut impl Write, name: &str, value: &str) -> std::fmt::Result {
    let token = |c: &char| u8::try_from(*c).is_ok_and(|byte| is_token(&[byte]));
    for c in name.chars().filter(token) {
        out.write_char(c)?;
    }
    out.write_str(": ")?;
    for c in value.chars().filter(|c| !c.is_control()) {
        out.write_char(c)?;
    }
    out.write_str("\r\n")
}

/// As [`render_response`], with a body that is not needed any more: where it has room for the head
/// (as what [`Fields`](crate::json::Fields) makes), no memory is asked for.
pub fn into_response(status: u16, mut body: String, keep_alive: bool) -> Vec<u8> {
    let head = ResponseHead {
        content_type: Some("application/json"),
        keep_alive,
        ..ResponseHead::new(status)
    };
    let mut text: heapless::String<{ 2 * HEAD_SIZE }> = heapless::String::new();
    if head.write(&mut text, Some(body.len())).is_err() {
        return head.render_with(body.as_bytes());
    }
    body.reserve_exact(text.len());
    body.insert_str(0, &text);
    body.into_bytes()
}

/// A response with a JSON body, head and body in one buffer. Without `keep_alive` the bytes are
/// exactly those of agent.md §1.3; with it the version is 1.1 and a `Connection: keep-alive` line is
/// added.
pub fn render_response(status: u16, body: &str, keep_alive: bool) -> Vec<u8> {
    let head = ResponseHead {
        content_type: Some("application/json"),
        keep_alive,
        ..ResponseHead::new(status)
    };
    head.render_with(body.as_bytes())
}

/// A request, head and body in one buffer (dispatcher.md §8: a Perl peer needs them in one TLS
/// record). `host` may carry a port. A body brings `Content-Type` and `Content-Length`.
///
/// The caller vouches that `method`, `path` and `host` hold neither blanks nor control
/// characters; any that are there are left out, so that no header can be smuggled in.
pub fn render_request(
    method: &str,
    path: &str,
    host: &str,
    body: Option<&str>,
    keep_alive: bool,
) -> Vec<u8> {
    let clean = |text: &str| -> String {
        text.chars()
            .filter(|c| !c.is_control() && !c.is_whitespace())
            .collect()
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n",
        clean(method),
        clean(path),
        clean(host),
    );
    if let Some(body) = body {
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    head.push_str("\r\n");
    joined(head, body.unwrap_or(""))
}

fn joined(head: String, body: &str) -> Vec<u8> {
    let mut bytes = head.into_bytes();
    bytes.reserve_exact(body.len());
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_bytes_are_those_of_the_reference() {
        assert_eq!(
            render_response(413, "{\"error\":\"request too large\"}", false),
            b"HTTP/1.0 413 Content Too Large\r\nContent-Type: application/json\r\n\
              Content-Length: 29\r\n\r\n{\"error\":\"request too large\"}"
        );
    }

    #[test]
    fn keep_alive_is_announced() {
        assert_eq!(
            render_response(200, "{}", true),
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
              Connection: keep-alive\r\n\r\n{}"
        );
    }

    #[test]
    fn length_counts_bytes_not_characters() {
        let bytes = render_response(200, "\"\u{e9}\"", false);
        assert!(
            String::from_utf8(bytes)
                .unwrap()
                .contains("Content-Length: 4\r\n")
        );
    }

    #[test]
    fn a_body_becomes_its_response_without_other_bytes() {
        for status in [200, 403, 404, 599] {
            for body in ["", "{}", "\"\u{e9}\""] {
                for keep_alive in [true, false] {
                    let bytes = into_response(status, body.to_owned(), keep_alive);
                    assert_eq!(bytes, render_response(status, body, keep_alive));
                }
            }
        }
    }

    #[test]
    fn requests() {
        assert_eq!(
            render_request("GET", "/capabilities", "r1:7443", None, false),
            b"GET /capabilities HTTP/1.1\r\nHost: r1:7443\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            render_request("POST", "/ping", "r1", Some("{}"), true),
            b"POST /ping HTTP/1.1\r\nHost: r1\r\nConnection: keep-alive\r\n\
              Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        assert_eq!(
            render_request("GET", "/x\r\nEvil: 1", "h\n", None, false),
            b"GET /xEvil:1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn heads_of_every_kind() {
        let head = ResponseHead {
            content_type: Some("text/plain"),
            headers: &[("WWW-Authenticate", "Bearer"), ("Retry-After", "5")],
            keep_alive: true,
            ..ResponseHead::new(401)
        };
        assert_eq!(
            head.render_with(b"no"),
            b"HTTP/1.1 401 Unauthorized\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\
              Connection: keep-alive\r\nWWW-Authenticate: Bearer\r\nRetry-After: 5\r\n\r\nno"
        );
        // Without a length the end of the connection is the end of the body.
        assert!(head.render(None).starts_with(b"HTTP/1.0 401"));
        assert_eq!(
            ResponseHead::new(599).render(Some(0)),
            b"HTTP/1.0 599 Unknown\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn no_line_can_be_forged() {
        let head = ResponseHead {
            content_type: Some("a\r\nX: 1"),
            headers: &[("B\r\nY", "2\n3\0"), ("C: d", "")],
            ..ResponseHead::new(200)
        };
        assert_eq!(
            head.render(None),
            b"HTTP/1.0 200 OK\r\nContent-Type: aX: 1\r\nBY: 23\r\nCd: \r\n\r\n"
        );
    }
}
