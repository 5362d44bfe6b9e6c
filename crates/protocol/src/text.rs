//! Text that others wrote (a peer, a script, a file), made fit for a terminal, a table or a log.
//!
//! Such text may move the cursor, recolour the screen, turn the reading direction round, or hide
//! and forge lines. [`Untrusted`] is the one way by which it reaches a reader.

use std::fmt::{self, Write};

/// What marks text that was cut. Text itself never shows as this: its backslashes are doubled.
pub const CUT_MARK: &str = "\\...";

/// Text of others. Its `Display` shows every character that does not stand for itself as an escape:
///
/// | in the text | shown |
/// |---|---|
/// | line feed, carriage return, tab | `\n`, `\r`, `\t` |
/// | backslash | `\\` |
/// | other controls, bidirectional and invisible characters, U+2028/9 | `\u{1b}` |
/// | a byte that is not UTF-8 | `\xff` |
/// | the rest, beyond [`Untrusted::at_most`] | `\...` |
///
/// No two texts show alike, unless they were cut. Width and alignment of the format apply
/// (`{:<20}`), counted in characters. Nothing is allocated.
///
/// ```
/// use ctrl_exec_protocol::text::Untrusted;
/// assert_eq!(Untrusted::new("a\u{1b}[2J\nb").to_string(), r"a\u{1b}[2J\nb");
/// assert_eq!(Untrusted::bytes(b"\xff!").to_string(), r"\xff!");
/// assert_eq!(Untrusted::new("abcdef").at_most(3).to_string(), r"abc\...");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Untrusted<'a> {
    bytes: &'a [u8],
    most: usize,
    lines: bool,
}

impl<'a> Untrusted<'a> {
    /// This text, whole.
    pub fn new(text: &'a str) -> Self {
        Self::bytes(text.as_bytes())
    }

    /// These bytes, which need not be UTF-8.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            most: usize::MAX,
            lines: false,
        }
    }

    /// Shows at most `most` bytes, escapes counted whole; [`CUT_MARK`] follows when that was not
    /// everything.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// For the output of a script, whose shape matters more than reading escapes back: line feeds,
    /// tabs, backslashes and a carriage return before a line feed stay as they are.
    #[must_use]
    pub fn lines(self) -> Self {
        Self {
            lines: true,
            ..self
        }
    }

    /// The pieces to show, each a whole character or escape.
    fn write_to(&self, out: &mut impl Write) -> fmt::Result {
        let mut left = self.most;
        for chunk in self.bytes.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some(c) = rest.chars().next() {
                // Text that stands for itself goes out in one piece.
                let plain = rest.find(|c| self.is_escaped(c)).unwrap_or(rest.len());
                if plain > 0 {
                    let (now, after) = rest.split_at(plain);
                    let shown = floor(now, left);
                    out.write_str(shown)?;
                    if shown.len() < now.len() {
                        return out.write_str(CUT_MARK);
                    }
                    left -= shown.len();
                    rest = after;
                    continue;
                }
                rest = &rest[c.len_utf8()..];
                if self.lines && c == '\r' && rest.starts_with('\n') {
                    if left == 0 {
                        return out.write_str(CUT_MARK);
                    }
                    out.write_char(c)?;
                    left -= 1;
                    continue;
                }
                if !put(out, &mut left, Escape::of(c))? {
                    return out.write_str(CUT_MARK);
                }
            }
            for byte in chunk.invalid() {
                if !put(out, &mut left, Escape::Byte(*byte))? {
                    return out.write_str(CUT_MARK);
                }
            }
        }
        Ok(())
    }

    fn is_escaped(&self, c: char) -> bool {
        match c {
            '\n' | '\t' | '\\' => !self.lines,
            c => !is_harmless(c),
        }
    }
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(width) = f.width() else {
            return self.write_to(f);
        };
        let mut count = Count(0);
        self.write_to(&mut count)?;
        let missing = width.saturating_sub(count.0);
        let before = match f.align() {
            Some(fmt::Alignment::Right) => missing,
            Some(fmt::Alignment::Center) => missing / 2,
            Some(fmt::Alignment::Left) | None => 0,
        };
        let fill = f.fill();
        for _ in 0..before {
            f.write_char(fill)?;
        }
        self.write_to(f)?;
        for _ in before..missing {
            f.write_char(fill)?;
        }
        Ok(())
    }
}

/// Whether a character may stand for itself on one line of a terminal: no control (C0, DEL, C1),
/// line or paragraph separator, bidirectional mark or isolate, and nothing that takes no room and
/// so could hide or carry text.
pub fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}'
            // Fillers of Hangul and Khmer: letters that show nothing.
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'))
}

/// How a character or byte that does not stand for itself shows.
enum Escape {
    Short(char),
    Char(char),
    Byte(u8),
}

impl Escape {
    fn of(c: char) -> Self {
        match c {
            '\n' => Self::Short('n'),
            '\r' => Self::Short('r'),
            '\t' => Self::Short('t'),
            '\\' => Self::Short('\\'),
            c => Self::Char(c),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Short(_) => 2,
            // `\u{}` and the hex digits.
            Self::Char(c) => 4 + (u32::from(*c).max(1).ilog2() / 4 + 1) as usize,
            Self::Byte(_) => 4,
        }
    }
}

/// Writes an escape if it has room. `false` when it has none.
fn put(out: &mut impl Write, left: &mut usize, escape: Escape) -> Result<bool, fmt::Error> {
    let Some(rest) = left.checked_sub(escape.len()) else {
        return Ok(false);
    };
    *left = rest;
    match escape {
        Escape::Short(c) => write!(out, "\\{c}")?,
        Escape::Char(c) => write!(out, "\\u{{{:x}}}", u32::from(c))?,
        Escape::Byte(byte) => write!(out, "\\x{byte:02x}")?,
    }
    Ok(true)
}

/// The longest beginning of `text` of at most `most` bytes that ends between characters.
fn floor(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Counts the characters written to it.
struct Count(usize);

impl Write for Count {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.chars().count();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What must never reach a terminal, written down apart from the code under test.
    fn is_dangerous(c: char) -> bool {
        let code = u32::from(c);
        code < 0x20
            || (0x7f..0xa0).contains(&code)
            || [0x61c, 0xad, 0x2028, 0x2029, 0x2060, 0xfeff].contains(&code)
            || (0x200b..=0x200f).contains(&code)
            || (0x202a..=0x202e).contains(&code)
            || (0x2066..=0x2069).contains(&code)
            || (0xe0000..=0xe007f).contains(&code)
            || (0xfe00..=0xfe0f).contains(&code)
    }

    /// Reads back what `Untrusted` showed.
    fn read_back(shown: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = shown.chars();
        while let Some(c) = rest.next() {
            if c != '\\' {
                out.extend(c.to_string().into_bytes());
                continue;
            }
            match rest.next().unwrap() {
                'n' => out.push(b'\n'),
                'r' => out.push(b'\r'),
                't' => out.push(b'\t'),
                '\\' => out.push(b'\\'),
                'x' => {
                    let hex: String = rest.by_ref().take(2).collect();
                    out.push(u8::from_str_radix(&hex, 16).unwrap());
                }
                'u' => {
                    assert_eq!(rest.next(), Some('{'));
                    let hex: String = rest.by_ref().take_while(|c| *c != '}').collect();
                    let c = char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap();
                    out.extend(c.to_string().into_bytes());
                }
                other => panic!("unknown escape {other}"),
            }
        }
        out
    }

    #[test]
    fn every_character_of_unicode_is_shown_harmlessly_and_can_be_read_back() {
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let shown = Untrusted::new(&text).to_string();
            assert!(!shown.contains(is_dangerous), "{c:?}");
            assert_eq!(read_back(&shown), text.as_bytes());
            let lines = Untrusted::new(&text).lines().to_string();
            assert!(
                lines
                    .chars()
                    .all(|c| c == '\n' || c == '\t' || !is_dangerous(c))
            );
        }
    }

    #[test]
    fn ordinary_text_stands_for_itself() {
        for text in ["", "eth0: up", "Grüße, 世界 🎉", "a 'b' \"c\" $d"] {
            assert_eq!(Untrusted::new(text).to_string(), text);
        }
        assert_eq!(Untrusted::new(r"C:\n").to_string(), r"C:\\n");
    }

    #[test]
    fn lines_keep_their_shape_but_cannot_be_overwritten() {
        let text = "a\tb\\n\r\nfirst\rsecond\x1b[1A\n";
        let shown = Untrusted::new(text).lines().to_string();
        assert_eq!(shown, "a\tb\\n\r\nfirst\\rsecond\\u{1b}[1A\n");
    }

    #[test]
    fn cut_between_characters_and_never_inside_an_escape() {
        let cut = |text: &str, most| Untrusted::new(text).at_most(most).to_string();
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), r"abc\...");
        assert_eq!(cut("aü", 2), r"a\...");
        assert_eq!(cut("a\x1b", 6), r"a\...");
        assert_eq!(cut("a\x1b", 7), r"a\u{1b}");
        assert_eq!(cut("", 0), "");
        assert_eq!(cut("a", 0), r"\...");
        let bytes = Untrusted::bytes(b"\xff\xfe").at_most(4);
        assert_eq!(bytes.to_string(), r"\xff\...");
    }

    #[test]
    fn width_counts_what_is_shown() {
        assert_eq!(format!("{:<6}|", Untrusted::new("ü\n")), "ü\\n   |");
        assert_eq!(format!("{:>4}|", Untrusted::new("ab")), "  ab|");
        assert_eq!(format!("{:*^5}|", Untrusted::new("ab")), "*ab**|");
        assert_eq!(format!("{:1}|", Untrusted::new("ab")), "ab|");
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless_bounded_and_read_back(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                ".{0,40}".prop_map(String::into_bytes),
                "[\\\\nrtxu{}1b\x1b\u{202e}\u{200b}\u{2028}]{0,20}".prop_map(String::into_bytes),
            ],
            most in 0usize..80,
        ) {
            let whole = Untrusted::bytes(&bytes).to_string();
            prop_assert!(!whole.contains(is_dangerous));
            prop_assert_eq!(read_back(&whole), bytes.clone());
            let cut = Untrusted::bytes(&bytes).at_most(most).to_string();
            prop_assert!(cut.len() <= most + CUT_MARK.len());
            match cut.strip_suffix(CUT_MARK) {
                Some(begun) => prop_assert!(whole.starts_with(begun) && whole.len() > most),
                None => prop_assert_eq!(&cut, &whole),
            }
            let lines = Untrusted::bytes(&bytes).lines().to_string();
            for (at, c) in lines.char_indices() {
                let kept = c == '\n' || c == '\t' || (c == '\r' && lines[at + 1..].starts_with('\n'));
                prop_assert!(kept || !is_dangerous(c));
            }
        }
    }
}
