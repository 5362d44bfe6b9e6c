//! The header lines of a message.

use super::HttpError;

/// The header lines of a message, kept as they came. They are as bounded as the head was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The whole head, its first line included.
    head: Vec<u8>,
}

impl Headers {
    /// Takes a head whose lines were found good.
    pub(super) fn of(head: Vec<u8>) -> Self {
        Self { head }
    }

    /// A word of the first line; empty when there are not so many.
    pub(super) fn first_line_word(&self, index: usize) -> &[u8] {
        let line = lines(&self.head).next().unwrap_or_default();
        words(line).nth(index).unwrap_or_default()
    }

    /// Name and value of each header line, in order, blanks around the value cut.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        lines(&self.head).skip(1).filter_map(split)
    }

    /// The values of all lines of this name, in any case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The value of the one line of this name; `None` when there is none.
    ///
    /// # Errors
    /// [`HttpError::Malformed`] when there are several, between which another reader may choose
    /// otherwise, or when it has other bytes than visible ASCII and blanks.
    pub fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, HttpError> {
        let mut found = self.all(name);
        let Some(value) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(HttpError::Malformed("repeated header"));
        }
        let visible = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
        std::str::from_utf8(value)
            .ok()
            .filter(|text| text.as_bytes().iter().all(visible))
            .map(Some)
            .ok_or(HttpError::Malformed("header is not plain text"))
    }
}

/// The lines of a head without their ends. Only the CR of the line end is cut; one inside a line is
/// part of it.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The words of a first line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// Name and value of a header line; `None` without a colon.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at(colon);
    Some((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// Whether a name is a token of RFC 9110, §5.6.2.
pub(super) fn is_token(name: &[u8]) -> bool {
    let symbol = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || symbol(byte))
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

    fn headers(lines: &str) -> Headers {
        Headers::of(format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes())
    }

    #[test]
    fn found_by_name_in_any_case() {
        let found = headers("Host: h\r\nAUTHORIZATION:  Bearer a b \r\nno colon\r\nX:\r\n");
        assert_eq!(found.one("authorization"), Ok(Some("Bearer a b")));
        assert_eq!(found.one("X"), Ok(Some("")));
        assert_eq!(found.one("Accept"), Ok(None));
        assert_eq!(found.iter().count(), 3);
        assert_eq!(Headers::default().one("Host"), Ok(None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let found = headers("A: 1\r\na: 2\r\nB: x\u{1}\r\nC: \u{fc}\r\nD: x\ry\r\n");
        assert_eq!(found.all("A").collect::<Vec<_>>(), [b"1", b"2"]);
        for name in ["A", "B", "C", "D"] {
            assert!(found.one(name).is_err(), "{name}");
        }
    }
}
