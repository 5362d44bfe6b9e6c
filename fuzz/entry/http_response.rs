//! HTTP responses as a connection receives them.

use ctrl_exec_protocol::http::{ChunkedBody, HttpError, Limits, Response, ResponseParser};

const LIMITS: Limits = Limits {
    max_head: 2000,
    max_headers: 32,
    max_body: 5000,
};

/// Any bytes are a row of responses or refused, and how they are split does not matter.
pub fn run(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let whole = all(LIMITS, std::iter::once(bytes));
    let split = all(LIMITS, bytes.chunks(usize::from(step).max(1)));
    assert_eq!(whole, split);
}

/// What a connection got: responses, content of bodies in chunks, how it ended.
pub type Got = (Vec<Response>, Vec<u8>, Option<HttpError>);

/// Reads as a connection does that awaits bodies in chunks.
pub fn all<'a>(limits: Limits, pieces: impl Iterator<Item = &'a [u8]>) -> Got {
    let mut parser = ResponseParser::new(limits);
    let mut chunks = ChunkedBody::default();
    let (mut found, mut content) = (Vec::new(), Vec::new());
    for mut piece in pieces {
        loop {
            let used = if parser.is_chunked() {
                let used = chunks.push(piece, &mut |bytes| content.extend_from_slice(bytes));
                if chunks.is_over() {
                    chunks = ChunkedBody::default();
                    parser.end_chunked();
                }
                used
            } else {
                parser.push(piece)
            };
            match used {
                Ok(used) => piece = &piece[used..],
                Err(error) => return (found, content, Some(error)),
            }
            // A body of unknown length may be reserved up to twice.
            assert!(parser.buffered() <= limits.max_head + 2 * limits.max_body.max(512));
            match parser.take() {
                Some(message) => found.push(message),
                None if piece.is_empty() => break,
                // Its head is read; what follows is for the reader of chunks.
                None if parser.is_chunked() => {}
                None => unreachable!("neither used nor complete"),
            }
        }
    }
    let end = parser.finish().err();
    found.extend(parser.take());
    (found, content, end)
}
