//! Writing: compact, nothing escaped but what must be.

use super::{Object, Value, plain_length};

/// What can be written as JSON.
pub trait Render {
    /// Appends the text: compact, members in order of their names, numbers as they were spelled.
    fn push_to(&self, out: &mut String);
}

impl Render for Value {
    fn push_to(&self, out: &mut String) {
        push_value(out, self, false);
    }
}

impl Render for Object {
    fn push_to(&self, out: &mut String) {
        push_object(out, self, false);
    }
}

/// The text of a value or an object.
pub fn render(value: &impl Render) -> String {
    let mut out = String::new();
    value.push_to(&mut out);
    out
}

/// The text of which the reference makes hashes: as by [`render`], with numbers in Perl's print
/// form, and integers that no machine number holds as strings (agent.md §6).
pub fn canonical(object: &Object) -> String {
    let mut out = String::new();
    push_object(&mut out, object, true);
    out
}

fn push_value(out: &mut String, value: &Value, canonical: bool) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) if canonical => {
            let text = number.print_form();
            let is_integer = number
                .as_str()
                .bytes()
                .all(|b| b == b'-' || b.is_ascii_digit());
            if is_integer && number.as_i64().is_none() && number.as_u64().is_none() {
                push_string(out, &text);
            } else {
                out.push_str(&text);
            }
        }
        Value::Number(number) => out.push_str(number.as_str()),
        Value::String(text) => push_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                push_value(out, item, canonical);
            }
            out.push(']');
        }
        Value::Object(object) => push_object(out, object, canonical),
    }
}

fn push_object(out: &mut String, object: &Object, canonical: bool) {
    out.push('{');
    for (n, (key, value)) in object.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, key);
        out.push(':');
        push_value(out, value, canonical);
    }
    out.push('}');
}

/// Starts a compact JSON object whose members stand in the order they are added.
pub fn object() -> Writer {
    Writer {
        out: String::from("{"),
    }
}

/// Writes one JSON object; see [`object`].
///
/// It is passed on by reference: moving it along such chains as there are took kilobytes of code.
#[derive(Clone, Debug)]
pub struct Writer {
    out: String,
}

impl Writer {
    /// Adds a string.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        push_string(self.key(key), value);
        self
    }

    /// Adds a string when there is one.
    pub fn opt_str(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.str(key, value),
            None => self,
        }
    }

    /// Adds an integer.
    pub fn int(&mut self, key: &str, value: i64) -> &mut Self {
        self.raw(key, &value.to_string())
    }

    /// Adds a boolean.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, if value { "true" } else { "false" })
    }

    /// Adds an array of strings.
    pub fn strings(&mut self, key: &str, values: &[String]) -> &mut Self {
        push_strings(self.key(key), values);
        self
    }

    /// Adds text that is JSON already.
    pub fn raw(&mut self, key: &str, json: &str) -> &mut Self {
        self.key(key).push_str(json);
        self
    }

    /// Adds a parsed value.
    pub fn value(&mut self, key: &str, value: &Value) -> &mut Self {
        push_value(self.key(key), value, false);
        self
    }

    /// The finished text. The writer is of no use afterwards.
    #[must_use]
    pub fn finish(&mut self) -> String {
        self.out.push('}');
        std::mem::take(&mut self.out)
    }

    /// Writes the name of the next member.
    fn key(&mut self, key: &str) -> &mut String {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        push_string(&mut self.out, key);
        self.out.push(':');
        &mut self.out
    }
}

/// A JSON array of strings.
pub fn string_array(values: &[String]) -> String {
    let mut out = String::new();
    push_strings(&mut out, values);
    out
}

/// A JSON array of texts that are JSON already.
pub fn raw_array(values: &[String]) -> String {
    let mut out = String::from("[");
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        out.push_str(value);
    }
    out.push(']');
    out
}

fn push_strings(out: &mut String, values: &[String]) {
    out.push('[');
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_string(out, value);
    }
    out.push(']');
}

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + 2);
    out.push('"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_length(rest.as_bytes()));
        out.push_str(plain);
        let Some(byte) = special.bytes().next() else {
            break;
        };
        let short = match byte {
            b'"' | b'\\' => char::from(byte),
            b'\n' => 'n',
            b'\r' => 'r',
            b'\t' => 't',
            0x08 => 'b',
            0x0c => 'f',
            _ => 'u',
        };
        out.push('\\');
        out.push(short);
        if short == 'u' {
            out.push_str("00");
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
        rest = &special[1..];
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::{Bounds, parse_object, str_of};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writes_compact_json() {
        let inner = Value::Array(vec![Value::Null]);
        let text = object()
            .str("a", "q\"\\\n\u{1}\u{1f}\u{7f}é")
            .int("i", -1)
            .bool("b", true)
            .strings("l", &["x".into(), String::new()])
            .raw("r", "{}")
            .value("v", &inner)
            .opt_str("none", None)
            .finish();
        assert_eq!(
            text,
            "{\"a\":\"q\\\"\\\\\\n\\u0001\\u001f\u{7f}é\",\"i\":-1,\"b\":true,\"l\":[\"x\",\"\"],\
             \"r\":{},\"v\":[null]}"
        );
        assert_eq!(object().finish(), "{}");
        assert_eq!(raw_array(&["{}".into(), "1".into()]), "[{},1]");
        assert_eq!(string_array(&[]), "[]");
    }

    #[test]
    fn numbers_are_passed_on_and_canonical_text_is_the_references() {
        let text = " {\"b\" : [1.0, null,true, 1e400,\n18446744073709551615, \
                    18446744073709551616,-9223372036854775808,-9223372036854775809],\
                    \"a\":{\"\\u00e9\":\"/\\u0001\\t\\u007f\"}} ";
        let object = parse_object(text.as_bytes(), &Bounds::ANSWER).unwrap();
        assert_eq!(
            render(&object),
            "{\"a\":{\"é\":\"/\\u0001\\t\u{7f}\"},\"b\":[1.0,null,true,1e400,18446744073709551615,\
             18446744073709551616,-9223372036854775808,-9223372036854775809]}"
        );
        assert_eq!(
            canonical(&object),
            "{\"a\":{\"é\":\"/\\u0001\\t\u{7f}\"},\"b\":[1,null,true,1e+400,18446744073709551615,\
             \"18446744073709551616\",-9223372036854775808,\"-9223372036854775809\"]}"
        );
    }

    proptest! {
        #[test]
        fn strings_round_trip(text in any::<String>()) {
            let json = object().str("k", &text).finish();
            let object = parse_object(json.as_bytes(), &Bounds::ANSWER).unwrap();
            prop_assert_eq!(str_of(&object, "k"), Some(text.as_str()));
            prop_assert_eq!(render(&object), json);
        }
    }
}
