//! The reader: recursive descent, as deep as [`Bounds`] allow.
//!
//! Nothing is made of a value that is beyond the bounds. The fault is kept in the reader rather
//! than in each result, so that results stay as small as a value.

use super::{Bounds, Fault, JsonError, Number, Object, Value, plain_length};

/// What is to be kept of a value; all of it is checked.
#[derive(Clone, Copy)]
pub(super) enum Want<'a> {
    All,
    /// Whatever comes back is of no use, but takes no memory.
    Nothing,
    /// Only these members, if it is an object.
    Members(&'a [&'a str]),
}

/// Reads one document.
pub(super) fn read(text: &[u8], bounds: &Bounds, want: Want<'_>) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(text).map_err(|error| {
        JsonError::Syntax(Fault {
            what: "not UTF-8",
            at: error.valid_up_to(),
        })
    })?;
    let mut reader = Reader {
        text,
        at: 0,
        nodes: bounds.max_nodes,
        depth: bounds.max_depth,
        error: JsonError::NotAnObject,
    };
    let value = reader.document(want);
    value.ok_or(reader.error)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Values and names that may still come.
    nodes: usize,
    /// Arrays and objects that may still be opened within this one.
    depth: usize,
    /// Why there is no value.
    error: JsonError,
}

impl Reader<'_> {
    fn document(&mut self, want: Want<'_>) -> Option<Value> {
        let value = self.value(want)?;
        self.blanks();
        if self.at < self.text.len() {
            return self.fail("text after the document");
        }
        Some(value)
    }

    fn fail<T>(&mut self, what: &'static str) -> Option<T> {
        self.error = JsonError::Syntax(Fault { what, at: self.at });
        None
    }

    fn too_complex<T>(&mut self, what: &'static str) -> Option<T> {
        self.error = JsonError::TooComplex(Fault { what, at: self.at });
        None
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

    fn count(&mut self) -> Option<()> {
        match self.nodes.checked_sub(1) {
            Some(left) => {
                self.nodes = left;
                Some(())
            }
            None => self.too_complex("too many values"),
        }
    }

    fn value(&mut self, want: Want<'_>) -> Option<Value> {
        self.blanks();
        self.count()?;
        match self.peek() {
            Some(open @ (b'{' | b'[')) => {
                if self.depth == 0 {
                    return self.too_complex("nested too deeply");
                }
                self.depth -= 1;
                self.at += 1;
                let value = if open == b'{' {
                    self.object(want)
                } else {
                    self.array(want)
                };
                self.depth += 1;
                value
            }
            Some(b'"') => self.string(want).map(Value::String),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => self.number(want),
        }
    }

    fn word(&mut self, word: &'static str, value: Value) -> Option<Value> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Some(value)
    }

    /// What follows the opening brace.
    fn object(&mut self, want: Want<'_>) -> Option<Value> {
        let mut members = Vec::new();
        let mut close = self.closes(b'}');
        while !close {
            self.blanks();
            if self.peek() != Some(b'"') {
                return self.fail("expected a member name");
            }
            self.count()?;
            let key = self.string(want)?;
            self.blanks();
            if !self.eat(b':') {
                return self.fail("expected ':'");
            }
            let inner = match want {
                Want::Members(names) if names.contains(&key.as_str()) => Want::All,
                Want::Members(_) => Want::Nothing,
                other => other,
            };
            let value = self.value(inner)?;
            if matches!(inner, Want::All) {
                members.push((key, value));
            }
            close = self.closes(b'}');
            if !close && !self.eat(b',') {
                return self.fail("expected ',' or '}'");
            }
        }
        Some(Value::Object(Object::of(members)))
    }

    /// What follows the opening bracket.
    fn array(&mut self, want: Want<'_>) -> Option<Value> {
        let mut items = Vec::new();
        let inner = match want {
            Want::Members(_) => Want::Nothing,
            other => other,
        };
        let mut close = self.closes(b']');
        while !close {
            let item = self.value(inner)?;
            if matches!(inner, Want::All) {
                items.push(item);
            }
            close = self.closes(b']');
            if !close && !self.eat(b',') {
                return self.fail("expected ',' or ']'");
            }
        }
        Some(Value::Array(items))
    }

    fn closes(&mut self, with: u8) -> bool {
        self.blanks();
        self.eat(with)
    }

    fn number(&mut self, want: Want<'_>) -> Option<Value> {
        let start = self.at;
        let negative = self.eat(b'-');
        if !self.eat(b'0') && !self.digits() {
            return self.fail(match negative {
                true => "malformed number",
                false => "expected a value",
            });
        }
        if self.eat(b'.') && !self.digits() {
            return self.fail("malformed number");
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            if !self.digits() {
                return self.fail("malformed number");
            }
        }
        let spelled = match want {
            Want::All => &self.text[start..self.at],
            _ => "",
        };
        Some(Value::Number(Number::spelled(spelled)))
    }

    /// Whether there is at least one.
    fn digits(&mut self) -> bool {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > start
    }

    /// The text of the string whose quote comes next.
    fn string(&mut self, want: Want<'_>) -> Option<String> {
        let keep = !matches!(want, Want::Nothing);
        let mut out = String::new();
        self.at += 1;
        loop {
            let start = self.at;
            self.at += plain_length(&self.text.as_bytes()[start..]);
            if keep {
                out.push_str(&self.text[start..self.at]);
            }
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    if keep {
                        out.push(c);
                    }
                }
                Some(_) => return self.fail("control character in a string"),
                None => return self.fail("unterminated string"),
            }
        }
        self.at += 1;
        Some(out)
    }

    fn escape(&mut self) -> Option<char> {
        let escaped = match self.peek() {
            Some(same @ (b'"' | b'\\' | b'/')) => same,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.fail("unknown escape"),
        };
        self.at += 1;
        Some(char::from(escaped))
    }

    fn unicode(&mut self) -> Option<char> {
        let mut code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.eat(b'\\') && self.eat(b'u') {
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            }
        }
        match char::from_u32(code) {
            Some(c) => Some(c),
            None => self.fail("lone surrogate"),
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|b| char::from(b).to_digit(16)) else {
                return self.fail("malformed \\u escape");
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Some(code)
    }
}
