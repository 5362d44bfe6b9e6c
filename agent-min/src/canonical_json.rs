//! JSON as schema sidecars need it (agent.md §6): numbers keep their text, keys are sorted, and
//! the canonical text is the one the reference hashes.
//!
//! The protocol's reader turns numbers into machine numbers; here their spelling matters, and the
//! documents come from disk. Depth and size are bounded.

/// Deepest nesting accepted.
const MAX_DEPTH: usize = 64;

/// A JSON value. Numbers are kept as they were spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as spelled.
    Number(String),
    /// A string, unescaped.
    Text(String),
    /// An array.
    Array(Vec<Node>),
    /// An object's members in code point order; of duplicates the last one.
    Object(Vec<(String, Node)>),
}

/// What is wrong with a document, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Offset in bytes.
    pub at: usize,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// Reads one JSON document.
///
/// # Errors
/// The first fault found.
pub fn parse(text: &str) -> Result<Node, Fault> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value(0)?;
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.fault("text after the document"));
    }
    Ok(node)
}

/// The named members of a JSON object that are strings, without building the rest. Of duplicate
/// members the last counts, as in [`parse`].
///
/// # Errors
/// The text is not one JSON object.
pub fn text_members<const N: usize>(
    text: &str,
    names: [&str; N],
) -> Result<[Option<String>; N], Fault> {
    let mut found = [const { None }; N];
    let mut reader = Reader { text, at: 0 };
    reader.blanks();
    if reader.peek() != Some(b'{') {
        return Err(reader.fault("expected an object"));
    }
    reader.members(0, &mut |key, value| {
        if let (Some(at), Node::Text(text)) = (names.iter().position(|name| *name == key), value) {
            found[at] = Some(text);
        }
    })?;
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.fault("text after the document"));
    }
    Ok(found)
}

impl Node {
    /// Compact JSON with sorted keys and numbers as they were spelled.
    pub fn render(&self) -> String {
        let mut out = String::new();
        write(self, &mut out, &|number, out| out.push_str(number));
        out
    }

    /// The reference's canonical text: as [`Node::render`], with numbers in Perl's print form.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        write(self, &mut out, &|number, out| {
            out.push_str(&print_form(number))
        });
        out
    }
}

/// The bytes the reference hashes for a canonical text: Latin-1 if every character fits, else
/// UTF-8.
pub fn hash_bytes(canonical: &str) -> Vec<u8> {
    let mut latin1 = Vec::with_capacity(canonical.len());
    for c in canonical.chars() {
        match u8::try_from(u32::from(c)) {
            Ok(byte) => latin1.push(byte),
            Err(_) => return canonical.as_bytes().to_vec(),
        }
    }
    latin1
}

fn write(node: &Node, out: &mut String, number: &dyn Fn(&str, &mut String)) {
    match node {
        Node::Null => out.push_str("null"),
        Node::Bool(true) => out.push_str("true"),
        Node::Bool(false) => out.push_str("false"),
        Node::Number(text) => number(text, out),
        Node::Text(text) => write_string(text, out),
        Node::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(item, out, number);
            }
            out.push(']');
        }
        Node::Object(members) => {
            out.push('{');
            for (n, (key, value)) in members.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write(value, out, number);
            }
            out.push('}');
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let code = c as usize;
                out.push_str("\\u00");
                out.push(char::from(HEX[code >> 4]));
                out.push(char::from(HEX[code & 15]));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as Perl prints it: integers of 64 bits as they are, larger ones as strings, anything
/// with a fraction or exponent with up to 15 significant digits. Done on the decimal text, which
/// needs no floating-point code.
fn print_form(number: &str) -> String {
    let (negative, magnitude) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let sign = if negative { "-" } else { "" };
    if magnitude.bytes().all(|b| b.is_ascii_digit()) {
        if magnitude == "0" {
            return "0".into();
        }
        let fits = if negative {
            number.parse::<i64>().is_ok()
        } else {
            number.parse::<u64>().is_ok()
        };
        return if fits {
            number.into()
        } else {
            format!("\"{number}\"")
        };
    }
    let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().unwrap_or(9999)),
        None => (magnitude, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|b| b - b'0')
        .collect();
    // The value is 0.DIGITS times ten to the power of `point`.
    let mut point = exponent.saturating_add(i32::try_from(whole.len()).unwrap_or(i32::MAX));
    let zeros = digits.iter().take_while(|d| **d == 0).count();
    digits.drain(..zeros);
    point = point.saturating_sub(i32::try_from(zeros).unwrap_or(i32::MAX));
    if digits.is_empty() {
        return "0".into();
    }
    if digits.len() > 15 {
        let round_up = digits[15] >= 5;
        digits.truncate(15);
        if round_up {
            let mut at = 15;
            loop {
                if at == 0 {
                    digits.insert(0, 1);
                    point = point.saturating_add(1);
                    break;
                }
                at -= 1;
                if digits[at] < 9 {
                    digits[at] += 1;
                    break;
                }
                digits[at] = 0;
            }
        }
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let text: String = digits.iter().map(|d| char::from(b'0' + d)).collect();
    let scientific = point.saturating_sub(1);
    if !(-4..15).contains(&scientific) {
        let (first, rest) = text.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let sign_of_exponent = if scientific < 0 { '-' } else { '+' };
        return format!(
            "{sign}{first}{dot}{rest}e{sign_of_exponent}{:02}",
            scientific.unsigned_abs()
        );
    }
    if point <= 0 {
        let zeros = "0".repeat(point.unsigned_abs() as usize);
        return format!("{sign}0.{zeros}{text}");
    }
    let point = point.unsigned_abs() as usize;
    if text.len() <= point {
        return format!("{sign}{text}{}", "0".repeat(point - text.len()));
    }
    format!("{sign}{}.{}", &text[..point], &text[point..])
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn fault(&self, what: &'static str) -> Fault {
        Fault { what, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        self.at += usize::from(hit);
        hit
    }

    fn word(&mut self, word: &'static str, node: Node) -> Result<Node, Fault> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(node);
        }
        Err(self.fault("expected a value"))
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return Err(self.fault("nested too deeply"));
        }
        self.blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Node::Text),
            Some(b't') => self.word("true", Node::Bool(true)),
            Some(b'f') => self.word("false", Node::Bool(false)),
            Some(b'n') => self.word("null", Node::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.fault("expected a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, Fault> {
        let mut members: Vec<(String, Node)> = Vec::new();
        self.members(depth, &mut |key, value| {
            // UTF-8 sorts by code point. Files are small, so shifting is cheap.
            match members.binary_search_by(|(known, _)| known.cmp(&key)) {
                Ok(at) => members[at].1 = value,
                Err(at) => members.insert(at, (key, value)),
            }
        })?;
        Ok(Node::Object(members))
    }

    fn members(&mut self, depth: usize, take: &mut dyn FnMut(String, Node)) -> Result<(), Fault> {
        self.at += 1;
        self.blanks();
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.fault("expected a member name"));
            }
            let key = self.string()?;
            self.blanks();
            if !self.eat(b':') {
                return Err(self.fault("expected ':'"));
            }
            let value = self.value(depth + 1)?;
            take(key, value);
            self.blanks();
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.fault("expected ',' or '}'"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node, Fault> {
        let mut items = Vec::new();
        self.at += 1;
        self.blanks();
        if self.eat(b']') {
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.eat(b']') {
                return Ok(Node::Array(items));
            }
            if !self.eat(b',') {
                return Err(self.fault("expected ',' or ']'"));
            }
        }
    }

    fn digits(&mut self) -> Result<(), Fault> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fault("malformed number"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node, Fault> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(Node::Number(self.text[start..self.at].to_owned()))
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(c) = rest.chars().next() else {
                return Err(self.fault("unterminated string"));
            };
            match c {
                '"' => {
                    self.at += 1;
                    return Ok(out);
                }
                '\\' => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                c if c < ' ' => return Err(self.fault("control character in a string")),
                c => {
                    out.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let simple = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.fault("unknown escape")),
        };
        self.at += 1;
        Ok(simple)
    }

    fn unicode(&mut self) -> Result<char, Fault> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if !self.text[self.at..].starts_with("\\u") {
                return Err(self.fault("lone surrogate"));
            }
            self.at += 2;
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.fault("lone surrogate"));
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or(self.fault("lone surrogate"))
    }

    fn hex4(&mut self) -> Result<u32, Fault> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            code = code * 16 + digit.ok_or(self.fault("malformed \\u escape"))?;
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_print_as_perl_prints_them() {
        for (given, printed) in [
            ("1.0", "1"),
            ("2.50", "2.5"),
            ("1e3", "1000"),
            ("-0", "0"),
            ("-1.5", "-1.5"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1E+20", "1e+20"),
            ("1.5e300", "1.5e+300"),
            ("3.141592653589793238", "3.14159265358979"),
            ("9.9999999999999999", "10"),
            ("0.0", "0"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "\"18446744073709551616\""),
            ("-9223372036854775808", "-9223372036854775808"),
            ("-9223372036854775809", "\"-9223372036854775809\""),
        ] {
            assert_eq!(print_form(given), printed, "{given}");
        }
    }

    #[test]
    fn canonical_text_sorts_and_escapes() {
        let node =
            parse(" {\"b\" : [1.0, null,true], \"a\":{\"\\u00e9\":\"/\\u0001\\t\\u007f\"}} ");
        let node = node.expect("valid");
        assert_eq!(
            node.canonical(),
            "{\"a\":{\"é\":\"/\\u0001\\t\u{7f}\"},\"b\":[1,null,true]}"
        );
        assert_eq!(
            node.render(),
            "{\"a\":{\"é\":\"/\\u0001\\t\u{7f}\"},\"b\":[1.0,null,true]}"
        );
    }

    #[test]
    fn faults_are_named() {
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "{a:1}",
            "01",
            "1.",
            "\"\\x\"",
            "\"\n\"",
            "\"",
            "tru",
            "1 2",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "{\"a\":1,}",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err(), "depth is bounded");
        assert_eq!(parse("\"\\ud83d\\ude00\""), Ok(Node::Text("😀".into())));
    }

    proptest! {
        #[test]
        fn never_panics_and_rereads_what_it_wrote(text in ".{0,200}") {
            if let Ok(node) = parse(&text) {
                prop_assert_eq!(parse(&node.render()).expect("own text"), node);
            }
        }

        #[test]
        fn strings_survive(text in any::<String>()) {
            let node = Node::Text(text);
            prop_assert_eq!(parse(&node.render()).expect("own text"), node);
        }

        #[test]
        fn numbers_keep_their_value(mantissa in -1_000_000_000i64..1_000_000_000, scale in 0u32..6) {
            let spelled = format!("{mantissa}e-{scale}");
            let printed: f64 = print_form(&spelled).parse().expect("a number");
            let expected: f64 = spelled.parse().expect("a number");
            prop_assert!((printed - expected).abs() <= expected.abs() * 1e-14);
        }
    }
}
