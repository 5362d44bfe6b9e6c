//! Responses, read with `httparse`: HTTP/1.0 and 1.1, with `Content-Length` or up to the end of the
//! connection.

use super::headers::{Headers, decimal, has_token};
use super::message::{BodyLength, Parser, Transaction};
use super::{HttpError, Response};

/// Reads one response after the other from bytes in pieces of any size.
pub type ResponseParser = Parser<Responses>;

/// What a client reads.
#[derive(Debug)]
pub enum Responses {}

impl Transaction for Responses {
    type Message = Response;

    const END_ENDS_HEAD: bool = false;

    /// Says at the first wrong byte that this is not HTTP, so that a peer of another protocol is
    /// not waited for.
    fn early(seen: usize, input: &[u8]) -> Result<(), HttpError> {
        let expected = MAGIC.get(seen..).unwrap_or_default();
        if expected.iter().zip(input).all(|(a, b)| a == b) {
            Ok(())
        } else {
            Err(NOT_HTTP)
        }
    }

    fn read_head(head: Vec<u8>) -> Result<(Response, BodyLength), HttpError> {
        let (response, length) = parse_head(&head)?;
        let headers = Headers::of(head);
        Ok((
            Response {
                headers,
                ..response
            },
            length,
        ))
    }

    fn set_body(message: &mut Response, body: Vec<u8>) {
        message.body = body;
    }
}

fn parse_head(bytes: &[u8]) -> Result<(Response, BodyLength), HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HttpError::Malformed("incomplete head")),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::TooManyHeaders),
        Err(_) => return Err(HttpError::Malformed("malformed HTTP response head")),
    }
    let status = parsed.code.unwrap_or(0);
    if !(200..=599).contains(&status) {
        return Err(HttpError::Malformed("HTTP status out of range"));
    }

    let (mut length, mut chunked) = (None, false);
    let mut keep_alive = parsed.version == Some(1);
    for header in parsed.headers.iter() {
        let value = header.value.trim_ascii();
        if header.name.eq_ignore_ascii_case("content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(HttpError::BadContentLength);
            }
            let new = decimal(value);
            if length.is_some_and(|old| old != new) {
                return Err(HttpError::BadContentLength);
            }
            length = Some(new);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HttpError::UnsupportedTransferEncoding);
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            if has_token(value, b"close") {
                keep_alive = false;
            } else if has_token(value, b"keep-alive") {
                keep_alive = true;
            }
        }
    }
    // With a length besides, one reader may take the one and another the other.
    if chunked && (length.is_some() || parsed.version != Some(1)) {
        return Err(HttpError::UnsupportedTransferEncoding);
    }
    if matches!(status, 204 | 304) {
        length = Some(0);
    }
    let response = Response {
        status,
        reason: parsed.reason.unwrap_or("").to_owned(),
        keep_alive: keep_alive && (length.is_some() || chunked),
        headers: Headers::default(),
        body: Vec::new(),
    };
    let unknown = if chunked {
        BodyLength::Chunked
    } else {
        BodyLength::ToEnd
    };
    Ok((response, length.map_or(unknown, BodyLength::Bytes)))
}

const MAGIC: &[u8] = b"HTTP/1.";
const NOT_HTTP: HttpError = HttpError::Malformed("not an HTTP response");
/// `httparse` needs room for all of them at once; [`Limits::max_headers`] beyond this is cut.
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Limits;

    fn limits() -> Limits {
        Limits {
            max_head: 1000,
            max_headers: 8,
            max_body: 100,
        }
    }

    fn parse(bytes: &[u8]) -> Result<Response, HttpError> {
        let mut parser = ResponseParser::new(limits());
        parser.push(bytes)?;
        parser.take().ok_or(HttpError::Truncated)
    }

    /// What comes; status, reason, keep-alive and body of it.
    type Row = (&'static [u8], u16, &'static str, bool, &'static [u8]);

    #[test]
    fn accepted() {
        let table: &[Row] = &[
            (
                b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                200,
                "OK",
                false,
                b"{}",
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                200,
                "OK",
                true,
                b"{}",
            ),
            (
                b"HTTP/1.1 403 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                403,
                "",
                false,
                b"",
            ),
            (
                b"HTTP/1.0 409 A b c\r\ncontent-length: 1\r\nConnection: Keep-Alive\r\n\r\nx",
                409,
                "A b c",
                true,
                b"x",
            ),
            (b"HTTP/1.1 204 No\r\n\r\n", 204, "No", true, b""),
            (
                b"HTTP/1.0 200 OK\nContent-Length: 1\n\nx",
                200,
                "OK",
                false,
                b"x",
            ),
        ];
        for (bytes, status, reason, keep_alive, body) in table {
            let got = parse(bytes).unwrap();
            assert_eq!(
                (
                    got.status,
                    got.reason.as_str(),
                    got.keep_alive,
                    got.body.as_slice()
                ),
                (*status, *reason, *keep_alive, *body)
            );
        }
    }

    #[test]
    fn refused() {
        let table: &[(&[u8], HttpError)] = &[
            (b"SSH-2.0-dropbear\r\n", NOT_HTTP),
            (b"HTTP/2.0 200 OK\r\n\r\n", NOT_HTTP),
            (b"HTTP/1.0 100 Continue\r\n\r\n", HttpError::Malformed("HTTP status out of range")),
            (b"HTTP/1.0 20x OK\r\n\r\n", HttpError::Malformed("malformed HTTP response head")),
            (b"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", HttpError::BadContentLength),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", HttpError::BadContentLength),
            (b"HTTP/1.0 200 OK\r\nContent-Length : 1\r\n\r\n", HttpError::Malformed("malformed HTTP response head")),
            (b"HTTP/1.0 200 OK\r\nA: b\r\n Content-Length: 1\r\n\r\n", HttpError::Malformed("malformed HTTP response head")),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 101\r\n\r\n", HttpError::BodyTooLarge),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HttpError::UnsupportedTransferEncoding),
            (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::UnsupportedTransferEncoding),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::UnsupportedTransferEncoding),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::UnsupportedTransferEncoding),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", HttpError::Truncated),
            (b"HTTP/1.0 200 OK\r\n1:1\r\n2:1\r\n3:1\r\n4:1\r\n5:1\r\n6:1\r\n7:1\r\n8:1\r\n9:1\r\n\r\n", HttpError::TooManyHeaders),
        ];
        for (bytes, error) in table {
            assert_eq!(
                parse(bytes),
                Err(*error),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn up_to_the_end_of_the_connection() {
        let mut parser = ResponseParser::new(limits());
        parser.push(b"HTTP/1.1 200 OK\r\n\r\nabc").unwrap();
        assert!(!parser.is_complete());
        parser.push(b"def").unwrap();
        parser.finish().unwrap();
        let got = parser.take().unwrap();
        assert_eq!(
            (got.body.as_slice(), got.keep_alive),
            (&b"abcdef"[..], false)
        );
        parser.push(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(parser.push(&[0; 101]), Err(HttpError::BodyTooLarge));
    }

    #[test]
    fn a_body_in_chunks_is_left_to_its_reader() {
        let mut parser = ResponseParser::new(limits());
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n";
        assert_eq!(parser.push(&[head, &b"3\r\n"[..]].concat()), Ok(head.len()));
        assert!(parser.is_chunked() && !parser.is_complete());
        assert_eq!(parser.push(b"3\r\n"), Ok(0));
        parser.end_chunked();
        let got = parser.take().unwrap();
        assert!(got.keep_alive && got.body.is_empty());
        assert!(parser.is_idle());
    }

    #[test]
    fn ends_too_early() {
        let at_end = |bytes: &[u8]| {
            let mut parser = ResponseParser::new(limits());
            parser.push(bytes).unwrap();
            parser.finish()
        };
        assert_eq!(at_end(b""), Err(HttpError::Empty));
        assert_eq!(at_end(b"HT"), Err(HttpError::Truncated));
        assert_eq!(
            at_end(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nx"),
            Err(HttpError::Truncated)
        );
    }

    #[test]
    fn two_in_a_row_as_in_pairing() {
        let bytes = b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nb";
        let mut parser = ResponseParser::new(limits());
        let used = parser.push(bytes).unwrap();
        assert_eq!(parser.take().unwrap().body, b"a");
        assert_eq!(used + parser.push(&bytes[used..]).unwrap(), bytes.len());
        assert_eq!(parser.take().unwrap().body, b"b");
    }
}
