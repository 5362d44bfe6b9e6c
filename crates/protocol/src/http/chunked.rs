//! Bodies of which the length is not known when they begin: chunked transfer encoding (RFC 9112,
//! §7.1), written by the agent for output that is shown while it comes, and read by the dispatcher.

use super::HttpError;

/// The head of a response whose body is the items of [`live`](crate::live).
pub fn live_head(keep_alive: bool) -> &'static str {
    macro_rules! head {
        ($connection:literal) => {
            concat!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-ctrl-exec-live\r\n",
                "Transfer-Encoding: chunked\r\nConnection: ",
                $connection,
                "\r\n\r\n"
            )
        };
    }
    if keep_alive {
        head!("keep-alive")
    } else {
        head!("close")
    }
}

/// Begins a chunk: what is added to the bytes from here on is its content, until [`end_chunk`].
pub fn begin_chunk() -> Vec<u8> {
    b"00000000\r\n".to_vec()
}

/// Ends the chunk. `last`: and the body.
pub fn end_chunk(bytes: &mut Vec<u8>, last: bool) {
    let mut length = bytes.len() - CHUNK_HEAD;
    for digit in bytes[..CHUNK_HEAD - 2].iter_mut().rev() {
        *digit = b"0123456789abcdef"[length & 15];
        length >>= 4;
    }
    bytes.extend_from_slice(if last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
}

/// What [`begin_chunk`] gives.
const CHUNK_HEAD: usize = 10;

/// Reads one chunked body from bytes in pieces of any size, holding nothing of it.
#[derive(Debug, Default)]
pub struct ChunkedBody {
    state: State,
    /// Bytes of lines between chunks, which tell nothing beyond lengths.
    idle: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the line that has the length of a chunk: so far, and how many digits.
    Length(usize, u32),
    /// Behind the digits of that line.
    Extension(usize),
    Content(usize),
    /// At the beginning of such a line.
    #[default]
    Begin,
    /// At the line end behind the content.
    AfterContent,
    /// In the lines behind the last chunk; whether this one is still blank.
    Trailer(bool),
    Over,
}

impl ChunkedBody {
    /// Takes bytes and tells what of them is content; the result is how many belong to the body.
    ///
    /// # Errors
    /// [`HttpError::Malformed`]; nothing more is to be pushed.
    pub fn push(
        &mut self,
        input: &[u8],
        content: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, HttpError> {
        let mut used = 0;
        while let Some(&byte) = input.get(used) {
            if let State::Content(left) = self.state {
                let rest = &input[used..];
                let now = &rest[..rest.len().min(left)];
                content(now);
                used += now.len();
                self.idle = 0;
                self.state = match left - now.len() {
                    0 => State::AfterContent,
                    left => State::Content(left),
                };
                continue;
            }
            if self.state == State::Over {
                break;
            }
            used += 1;
            self.idle += 1;
            if self.idle > MAX_LINES {
                return Err(MALFORMED);
            }
            self.state = self.next(byte).ok_or(MALFORMED)?;
        }
        Ok(used)
    }

    fn next(&self, byte: u8) -> Option<State> {
        Some(match (self.state, byte) {
            (State::Begin, _) => State::Length(digit(byte)?, 1),
            (State::Length(length, _), b'\n') => chunk(length),
            (State::Length(length, _), b'\r' | b' ' | b'\t' | b';') => State::Extension(length),
            // Sixteen digits are more than any length; zeros before it are allowed.
            (State::Length(length, count), _) if count < 16 => {
                let length = length.checked_mul(16)?.checked_add(digit(byte)?)?;
                State::Length(length, count + 1)
            }
            (State::Extension(length), b'\n') => chunk(length),
            (State::Extension(length), _) => State::Extension(length),
            (State::AfterContent, b'\r') => State::AfterContent,
            (State::AfterContent, b'\n') => State::Begin,
            (State::Trailer(true), b'\n') => State::Over,
            (State::Trailer(false), b'\n') => State::Trailer(true),
            (State::Trailer(blank), _) => State::Trailer(blank && byte == b'\r'),
            _ => return None,
        })
    }

    /// The whole body has come.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }
}

/// What follows a line with this length.
fn chunk(length: usize) -> State {
    if length == 0 {
        State::Trailer(true)
    } else {
        State::Content(length)
    }
}

fn digit(byte: u8) -> Option<usize> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| usize::try_from(digit).ok())
}

/// Bytes between two pieces of content, at most.
const MAX_LINES: usize = 1024;
const MALFORMED: HttpError = HttpError::Malformed("malformed chunked body");

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), HttpError> {
        let mut body = ChunkedBody::default();
        let (mut content, mut used) = (Vec::new(), 0);
        for part in bytes.chunks(step) {
            used += body.push(part, &mut |bytes| content.extend_from_slice(bytes))?;
        }
        Ok((content, used, body.is_over()))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut all = Vec::new();
        for (content, last) in [(&b"one"[..], false), (&[b'x'; 300], false), (b"end", true)] {
            let mut chunk = begin_chunk();
            chunk.extend_from_slice(content);
            end_chunk(&mut chunk, last);
            all.extend(chunk);
        }
        assert!(all.starts_with(b"00000003\r\none\r\n0000012c\r\n"));
        let length = all.len();
        all.extend_from_slice(b"HTTP/1.1 200");
        let expected = [b"one".as_slice(), &[b'x'; 300], b"end"].concat();
        for step in [1, 3, 100, 1000] {
            assert_eq!(
                read(&all, step),
                Ok((expected.clone(), length, true)),
                "{step}"
            );
        }
    }

    #[test]
    fn what_others_write() {
        let table: &[(&[u8], &[u8], bool)] = &[
            (b"3;x=\"y\"\r\nabc\r\n0\r\nA: b\r\n\r\n", b"abc", true),
            (b"A\n0123456789\n0\n\n", b"0123456789", true),
            (b"3 \r\nabc\r\n", b"abc", false),
            (b"5\r\nab", b"ab", false),
            (b"0\r\n\r\n", b"", true),
        ];
        for (bytes, content, over) in table {
            let got = read(bytes, 1).unwrap();
            assert_eq!((got.0.as_slice(), got.2), (*content, *over));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [
            &b"x\r\n"[..],
            b"\r\n",
            b"-1\r\n",
            b"3\r\nabcd\r\n",
            b"11111111111111111\r\n",
            b"ffffffffffffffffff\r\n",
            b"+3\r\nabc",
            &[b"3;".as_slice(), &[b'x'; 2000]].concat(),
            &[b"0\r\n".as_slice(), &b"a: b\r\n".repeat(300)].concat(),
        ] {
            assert_eq!(read(bytes, 1), Err(MALFORMED));
        }
    }
}
