//! Requests, read as the reference reads them (agent.md §1.3).

use super::head::{BodyBuffer, HeadBuffer};
use super::{HttpError, Limits, Request};

/// Reads one request after the other from bytes in pieces of any size.
///
/// The head is read line by line rather than by `httparse`, because the reference takes more
/// than HTTP allows: no version, header lines without a colon, anything between words. What is
/// accepted beyond that is nothing.
#[derive(Debug)]
pub struct RequestParser {
    limits: Limits,
    state: State,
    head: HeadBuffer,
    body: BodyBuffer,
    request: Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body { length: usize },
    Complete,
    Failed(HttpError),
}

impl RequestParser {
    /// A parser at the start of its first request.
    pub fn new(limits: Limits) -> Self {
        RequestParser {
            limits,
            state: State::Head,
            head: HeadBuffer::default(),
            body: BodyBuffer::default(),
            request: Request::default(),
        }
    }

    /// Bounds the bodies of requests whose head has not been read yet.
    pub fn limit_body(&mut self, max_body: usize) {
        self.limits.max_body = max_body;
    }

    /// Takes bytes of the request that is being read and returns how many it used; the rest
    /// belongs to the next request, to be pushed again after [`RequestParser::take`].
    ///
    /// # Errors
    /// The fault of this request, at the first byte that shows it. It stays.
    pub fn push(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let result = self.push_inner(input);
        if let Err(error) = result {
            self.fail(error);
        }
        result
    }

    fn push_inner(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let mut used = 0;
        loop {
            match self.state {
                State::Head => {
                    let pushed = self.head.push(&input[used..], &self.limits)?;
                    used += pushed.used;
                    if !pushed.complete {
                        return Ok(used);
                    }
                    self.end_of_head()?;
                }
                State::Body { length } => {
                    let rest = &input[used..];
                    let take = rest.len().min(length - self.body.bytes.len());
                    self.body.push(&rest[..take], Some(length));
                    used += take;
                    if self.body.bytes.len() < length {
                        return Ok(used);
                    }
                    self.state = State::Complete;
                }
                State::Complete => return Ok(used),
                State::Failed(error) => return Err(error),
            }
        }
    }

    /// Says that no more bytes will come. As in the reference, the end of the connection also
    /// ends the headers.
    ///
    /// # Errors
    /// [`HttpError::Empty`] when nothing was said, [`HttpError::Truncated`] when the body or the
    /// request line is not whole, and the faults of [`RequestParser::push`].
    pub fn finish(&mut self) -> Result<(), HttpError> {
        let result = match self.state {
            State::Complete => Ok(()),
            State::Failed(error) => Err(error),
            State::Head if self.head.bytes().is_empty() => Err(HttpError::Empty),
            State::Head if !self.head.bytes().contains(&b'\n') => Err(HttpError::Truncated),
            State::Head => self.end_of_head().and_then(|()| match self.state {
                State::Body { length: 0 } => {
                    self.state = State::Complete;
                    Ok(())
                }
                _ => Err(HttpError::Truncated),
            }),
            State::Body { .. } => Err(HttpError::Truncated),
        };
        if let Err(error) = result {
            self.fail(error);
        }
        result
    }

    /// A request is ready to be taken.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Nothing of a request has been read yet.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.head.bytes().is_empty()
    }

    /// The request, if complete; the parser then stands at the start of the next one.
    pub fn take(&mut self) -> Option<Request> {
        if self.state != State::Complete {
            return None;
        }
        self.state = State::Head;
        let mut request = std::mem::take(&mut self.request);
        request.body = std::mem::take(&mut self.body.bytes);
        Some(request)
    }

    /// Heap bytes held for the request that is being read.
    pub fn buffered(&self) -> usize {
        self.head.bytes().len() + self.body.bytes.capacity()
    }

    fn fail(&mut self, error: HttpError) {
        self.state = State::Failed(error);
        self.head.clear();
        self.body = BodyBuffer::default();
    }

    fn end_of_head(&mut self) -> Result<(), HttpError> {
        let head = parse_head(self.head.bytes())?;
        self.head.clear();
        if head.length > self.limits.max_body {
            return Err(HttpError::BodyTooLarge);
        }
        self.request = head.request;
        self.state = State::Body {
            length: head.length,
        };
        Ok(())
    }
}

struct Head {
    request: Request,
    length: usize,
}

fn parse_head(bytes: &[u8]) -> Result<Head, HttpError> {
    let mut lines = bytes.split(|&byte| byte == b'\n').map(|line| {
        // Only the line end's CR is cut; one inside a line is part of it.
        line.strip_suffix(b"\r").unwrap_or(line)
    });
    let first = lines.next().unwrap_or_default();
    let mut words = first
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    // A first line of blanks only says as little as an empty one.
    let method = words.next().ok_or(HttpError::Empty)?;
    let path = words.next().unwrap_or_default();

    let mut length = None;
    let mut doubtful = false;
    let mut keep_alive = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let new = content_length(value)?;
            // The last one wins, as in the reference. But a peer that contradicts itself, or
            // says what another reader may understand, gets no second request on the connection.
            doubtful |= length.is_some_and(|old| old != new) || new.is_none();
            length = Some(new);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(HttpError::UnsupportedTransferEncoding);
        } else if name.eq_ignore_ascii_case(b"connection") {
            keep_alive = has_token(value, b"keep-alive") && !has_token(value, b"close");
        }
    }
    Ok(Head {
        request: Request {
            method: String::from_utf8_lossy(method).into_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            keep_alive: keep_alive && !doubtful,
            body: Vec::new(),
        },
        length: length.flatten().unwrap_or(0),
    })
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

/// The value of ASCII digits, saturated.
pub(super) fn decimal(digits: &[u8]) -> usize {
    digits.iter().fold(0usize, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(usize::from(digit.wrapping_sub(b'0')))
    })
}

/// A comma-separated header value holds `token`, in any case.
pub(super) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Request, HttpError> {
        let mut parser = RequestParser::new(Limits::default());
        parser.push(bytes)?;
        parser.take().ok_or(HttpError::Truncated)
    }

    fn ok(bytes: &[u8]) -> (String, String, bool, String) {
        let request = parse(bytes).unwrap();
        let body = String::from_utf8(request.body).unwrap();
        (request.method, request.path, request.keep_alive, body)
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
                b"P / x\r\n Content-Length: 3\r\n\r\n",
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
            parser.finish().map(|()| parser.take().unwrap().path)
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
        assert_eq!(parser.take().unwrap().path, "/1");
        assert!(parser.is_idle());
        assert_eq!(used + parser.push(&bytes[used..]).unwrap(), bytes.len());
        assert_eq!(parser.take().unwrap().path, "/2");
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
}
