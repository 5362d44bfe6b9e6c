//! HTTP responses as a connection receives them.

use ctrl_exec_protocol::http::{HttpError, Limits, Response, ResponseParser};

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
    let whole = all(std::iter::once(bytes));
    let split = all(bytes.chunks(usize::from(step).max(1)));
    assert_eq!(whole, split);
}

fn all<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Response>, Option<HttpError>) {
    let mut parser = ResponseParser::new(LIMITS);
    let mut found = Vec::new();
    for mut piece in pieces {
        loop {
            match parser.push(piece) {
                Ok(used) => piece = &piece[used..],
                Err(error) => return (found, Some(error)),
            }
            assert!(parser.buffered() <= LIMITS.max_head + 2 * LIMITS.max_body);
            match parser.take() {
                Some(message) => found.push(message),
                None if piece.is_empty() => break,
                None => unreachable!("neither used nor complete"),
            }
        }
    }
    let end = parser.finish().err();
    found.extend(parser.take());
    (found, end)
}
