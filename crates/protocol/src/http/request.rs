//! Requests, read as the reference reads them (agent.md §1.3).

use super::headers::{Headers, decimal, has_token, is_token, lines, split, words};
use super::message::{BodyLength, Parser, Transaction};
use super::{HttpError, Request};

/// Reads one request after the other from bytes in pieces of any size.
///
/// The head is read line by line rather than by `httparse`, because the reference takes more
/// than HTTP allows: no version, header lines without a colon, anything between words. What is
/// accepted beyond that is nothing: a header line that another reader might take for something else
/// (blanks before its colon or before its name, a bare CR or NUL) is refused.
pub type RequestParser = Parser<Requests>;

/// What a server reads.
#[derive(Debug)]
pub enum Requests {}

impl Transaction for Requests {
    type Message = Request;

    // As in the reference.
    const END_ENDS_HEAD: bool = true;

    fn early(_: usize, _: &[u8]) -> Result<(), HttpError> {
        Ok(())
    }

    fn read_head(head: Vec<u8>) -> Result<(Request, BodyLength), HttpError> {
        let fields = Fields::read(&head)?;
        let request = Request {
            keep_alive: fields.keep_alive,
            headers: Headers::of(head),
            body: Vec::new(),
        };
        Ok((request, BodyLength::Bytes(fields.length)))
    }

    fn set_body(message: &mut Request, body: Vec<u8>) {
        message.body = body;
    }
}

/// What a head says.
struct Fields {
    keep_alive: bool,
    length: usize,
}

impl Fields {
    fn read(head: &[u8]) -> Result<Self, HttpError> {
        let mut lines = lines(head);
        // A first line of blanks only says as little as an empty one.
        let first = lines.next().unwrap_or_default();
        words(first).next().ok_or(HttpError::Empty)?;

        let mut length = None;
        let mut doubtful = false;
        let mut keep_alive = false;
        for line in lines.filter(|line| !line.is_empty()) {
            if line.first().is_some_and(u8::is_ascii_whitespace) {
                return Err(HttpError::Malformed("folded header line"));
            }
            let Some((name, value)) = split(line) else {
                continue;
            };
            if !is_token(name) {
                return Err(HttpError::Malformed("malformed header name"));
            }
            if value.iter().any(|byte| matches!(byte, b'\r' | 0)) {
                return Err(HttpError::Malformed("malformed header value"));
            }
            if name.eq_ignore_ascii_case(b"content-length") {
                let new = content_length(value)?;
                // The last one wins, as in the reference. But a peer that contradicts itself, or
                // says what another reader may understand, gets no second request on the
                // connection.
                doubtful |= length.is_some_and(|old| old != new) || new.is_none();
                length = Some(new);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return Err(HttpError::UnsupportedTransferEncoding);
            } else if name.eq_ignore_ascii_case(b"connection") {
                keep_alive = has_token(value, b"keep-alive") && !has_token(value, b"close");
            }
        }
        Ok(Self {
            keep_alive: keep_alive && !doubtful,
            length: length.flatten().unwrap_or(0),
        })
    }
}

/// `None` when the value is not a number, which means an empty body (agent.md §1.3). A number
/// too large for us to hold is as good as the largest: both are beyond every limit.
fn content_length(value: &[u8]) -> Result<Option<usize>, HttpError> {
    let digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    if digits(value) {
        return Ok(Some(decimal(value)));
    }
    match value.strip_prefix(b"-") {
        Some(rest) if digits(rest) => Err(HttpError::BadContentLength),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Limits;

    fn parse(bytes: &[u8]) -> Result<Request, HttpError> {
        let mut parser = RequestParser::new(Limits::default());
        parser.push(bytes)?;
        parser.take().ok_or(HttpError::Truncated)
    }

    fn ok(bytes: &[u8]) -> (String, String, bool, String) {
        let request = parse(bytes).unwrap();
        let (method, path) = (request.method().into(), request.path().into());
        let body = String::from_utf8(request.body).unwrap();
        (method, path, request.keep_alive, body)
    }

    fn tuple(m: &str, p: &str, k: bool, b: &str) -> (String, String, bool, String) {
        (m.into(), p.into(), k, b.into())
    }

    #[test]
    fn lenient_where_the_reference_is() {
        let table: &[(&[u8], _)] = &[
            (
                b"POST /ping HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
                tuple("POST", "/ping", false, "{}"),
            ),
            (
                b"POST /ping HTTP/1.0\nContent-Length: 2\n\n{}",
                tuple("POST", "/ping", false, "{}"),
            ),
            (b"POST /ping\r\n\r\n", tuple("POST", "/ping", false, "")),
            (b"GARBAGE\r\n\r\n", tuple("GARBAGE", "", false, "")),
            (b" GET \t /x  y z\r\n\r\n", tuple("GET", "/x", false, "")),
            (
                b"post /ping?x=1 HTTP/9\r\n\r\n",
                tuple("post", "/ping?x=1", false, ""),
            ),
            (
                b"P / x\r\nno colon here\r\ncontent-LENGTH:   3\r\n\r\nabc",
                tuple("P", "/", false, "abc"),
            ),
            (
                b"P / x\r\nContent-Length: 9\r\nContent-Length: 3\r\n\r\nabc",
                tuple("P", "/", false, "abc"),
            ),
            (
                b"P / x\r\nContent-Length: abc\r\n\r\n",
                tuple("P", "/", false, ""),
            ),
            (
                b"P / x\r\nContent-Length: 3x\r\n\r\n",
                tuple("P", "/", false, ""),
            ),
            (
                b"P / x\r\nContent-Length:\r\n\r\n",
                tuple("P", "/", false, ""),
            ),
            (
                b"P / x\r\nContent-Length: 0\r\n\r\n",
                tuple("P", "/", false, ""),
            ),
            (
                b"\xff\xfe /\x00 x\r\n\r\n",
                tuple("\u{fffd}\u{fffd}", "/\0", false, ""),
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(&ok(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn keep_alive_only_when_asked_and_beyond_doubt() {
        let table: &[(&[u8], bool)] = &[
            (b"P / HTTP/1.1\r\n\r\n", false),
            (b"P / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", true),
            (b"P / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", true),
            (b"P / HTTP/1.1\r\nConnection: TE, close\r\n\r\n", false),
            (b"P / HTTP/1.1\r\nConnection: TE, keep-alive\r\n\r\n", true),
            (b"P / HTTP/1.1\r\nConnection: keep-alive, close\r\n\r\n", false),
            (b"P / x\r\nConnection: keep-alive\r\nContent-Length: x\r\n\r\n", false),
            (b"P / x\r\nConnection: keep-alive\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n", false),
            (b"P / x\r\nConnection: keep-alive\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", true),
        ];
        for (bytes, expected) in table {
            assert_eq!(ok(bytes).2, *expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn faults_and_their_answers() {
        let many = |n: usize| {
            let mut text = b"POST /ping HTTP/1.0\r\n".to_vec();
            (0..n).for_each(|i| text.extend_from_slice(format!("X-{i}: y\r\n").as_bytes()));
            text.extend_from_slice(b"\r\n");
            text
        };
        assert!(parse(&many(32)).is_ok());
        let table: &[(&[u8], u16, &str)] = &[
            (b"\r\n", 400, "empty request"),
            (b"\n", 400, "empty request"),
            (b"  \t\r\n\r\n", 400, "empty request"),
            (&many(33), 431, "too many headers"),
            (&vec![b'a'; 20_000], 431, "request head too large"),
            (
                b"P / x\r\nContent-Length: 1048577\r\n\r\n",
                413,
                "request too large",
            ),
            (
                b"P / x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                413,
                "request too large",
            ),
            (
                b"P / x\r\nContent-Length: -1\r\n\r\n",
                400,
                "bad content length",
            ),
            (
                b"P / x\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
                "transfer encoding not supported",
            ),
        ];
        for (bytes, status, message) in table {
            let error = parse(bytes).unwrap_err();
            assert_eq!(
                (error.status(), error.message()),
                (*status, *message),
                "{error:?}"
            );
            assert_eq!(error.body(), format!("{{\"error\":\"{message}\"}}"));
        }
    }

    #[test]
    fn the_end_of_the_connection() {
        let at_end = |bytes: &[u8]| {
            let mut parser = RequestParser::new(Limits::default());
            parser.push(bytes).unwrap();
            parser
                .finish()
                .map(|()| parser.take().unwrap().path().into_owned())
        };
        assert_eq!(at_end(b""), Err(HttpError::Empty));
        assert_eq!(at_end(b"GET /x HTT"), Err(HttpError::Truncated));
        assert_eq!(at_end(b"GET /x HTTP/1.0\r\n"), Ok("/x".into()));
        assert_eq!(at_end(b"GET /x HTTP/1.0\r\nA: b"), Ok("/x".into()));
        assert_eq!(
            at_end(b"GET /x HTTP/1.0\r\nContent-Length: 2\r\n"),
            Err(HttpError::Truncated)
        );
        assert_eq!(
            at_end(b"GET /x y\r\nContent-Length: 2\r\n\r\n{"),
            Err(HttpError::Truncated)
        );
    }

    #[test]
    fn requests_in_a_row() {
        let bytes = b"A /1 x\r\nContent-Length: 1\r\n\r\nxB /2 x\r\n\r\n";
        let mut parser = RequestParser::new(Limits::default());
        let used = parser.push(bytes).unwrap();
        assert_eq!(
            parser.push(&bytes[used..]),
            Ok(0),
            "a complete request takes no more"
        );
        assert_eq!(parser.take().unwrap().path(), "/1");
        assert!(parser.is_idle());
        assert_eq!(used + parser.push(&bytes[used..]).unwrap(), bytes.len());
        assert_eq!(parser.take().unwrap().path(), "/2");
        assert_eq!(parser.take(), None);
        assert_eq!(parser.buffered(), 0);
    }

    #[test]
    fn an_announced_body_is_not_allocated_before_it_comes() {
        let mut parser = RequestParser::new(Limits::default());
        parser
            .push(b"P / x\r\nContent-Length: 1000000\r\n\r\nabc")
            .unwrap();
        assert!(parser.buffered() < 2048, "{}", parser.buffered());
    }

    #[test]
    fn a_fault_stays() {
        let mut parser = RequestParser::new(Limits::default());
        assert_eq!(parser.push(b"\n"), Err(HttpError::Empty));
        assert_eq!(parser.push(b"GET / x\r\n\r\n"), Err(HttpError::Empty));
        assert_eq!(parser.finish(), Err(HttpError::Empty));
        assert!(!parser.is_complete());
    }

    #[test]
    fn lines_that_another_reader_may_take_otherwise_are_refused() {
        for line in [
            "Content-Length : 3",
            "Content-Length\t: 3",
            "Transfer-Encoding : chunked",
            " Content-Length: 3",
            "X: a\r\n Transfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked",
            "X: a\r\n\tb",
            "Content-Length\0: 3",
            "\0Content-Length: 3",
            "Content\u{b}-Length: 3",
            "X y: 3",
            ": 3",
            "Content-Length: 3\r: 4",
            "X: a\rContent-Length: 3",
            "X: a\0b",
        ] {
            let head = format!("P / HTTP/1.1\r\n{line}\r\n\r\n");
            let error = parse(head.as_bytes()).unwrap_err();
            assert_eq!(error.status(), 400, "{line:?}: {error:?}");
        }
        // Bytes beyond ASCII in values are nobody's framing.
        assert!(parse(b"P / x\r\nX-Name: \xc3\xbc\xff\r\n\r\n").is_ok());
    }

    #[test]
    fn header_lines_are_kept() {
        let request =
            parse(b"GET /v1 HTTP/1.1\r\nAccept: a/b\r\nLast-Event-ID: 7\r\n\r\n").unwrap();
        assert_eq!(request.headers.one("last-event-id"), Ok(Some("7")));
        assert_eq!(request.headers.one("accept"), Ok(Some("a/b")));
    }

    #[test]
    fn what_is_held_is_counted() {
        let mut parser = RequestParser::new(Limits::default());
        parser.push(b"P / x\r\nA: b").unwrap();
        assert_eq!(parser.buffered(), 11);
        assert!(!parser.is_idle());
        parser.push(b"\r\nContent-Length: 600\r\n\r\nabc").unwrap();
        assert!((3..=600).contains(&parser.buffered()));
        assert!(!parser.is_idle());
        assert!(parser.push(b"").is_ok());
        assert_eq!(parser.finish(), Err(HttpError::Truncated));
        assert_eq!(parser.buffered(), 0);
    }
}
