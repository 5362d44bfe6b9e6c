//! The line grammar of `agent.conf` (agent.md §7.1).

/// One line, classified.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Blank, or a comment.
    Empty,
    /// `[word]` or `[word name]`; the word's case does not matter.
    Section {
        word: &'a str,
        name: Option<&'a str>,
    },
    /// `key = value`. A value of blanks only is kept as one blank, as in the reference.
    Key { key: &'a str, value: &'a str },
    /// Anything else.
    Malformed,
}

/// What some editors put before the text of a file.
pub(super) const BOM: char = '\u{feff}';
/// What is said of a line that begins with it.
pub(super) const HAS_BOM: &str = "begins with a byte order mark (BOM): save the file without";

/// Perl's `\s` for bytes: Rust's ASCII whitespace lacks the vertical tab.
pub(super) fn is_space(ch: char) -> bool {
    matches!(ch, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Perl's `\w` for bytes.
pub(super) fn is_word(ch: char) -> bool {
    ch.is_ascii_alphanumeric() || ch == '_'
}

/// Classifies one line, without its line end.
pub(super) fn classify(line: &str) -> Line<'_> {
    let trimmed = line.trim_matches(is_space);
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Line::Empty;
    }
    if let Some(rest) = trimmed.strip_prefix('[') {
        return section(rest);
    }
    match key_value(line) {
        Some((key, value)) if is_key(key) => Line::Key { key, value },
        _ => Line::Malformed,
    }
}

/// Splits at the first `=` and trims both sides. None when there is no `=` or nothing after it.
pub(super) fn key_value(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.split_once('=')?;
    let value = rest.trim_matches(is_space);
    let value = if value.is_empty() && !rest.is_empty() {
        " "
    } else {
        value
    };
    (!value.is_empty()).then_some((key.trim_matches(is_space), value))
}

fn is_key(key: &str) -> bool {
    key.starts_with(is_word) && key.chars().all(|ch| is_word(ch) || ch == '-')
}

fn section(rest: &str) -> Line<'_> {
    let Some(inner) = rest.strip_suffix(']') else {
        return Line::Malformed;
    };
    let mut parts = inner.split(is_space).filter(|part| !part.is_empty());
    let (word, name) = (parts.next(), parts.next());
    let name_ok = name.is_none_or(|name| {
        name.chars()
            .all(|ch| is_word(ch) || matches!(ch, '.' | '-'))
    });
    match word {
        Some(word) if word.chars().all(is_word) && name_ok && parts.next().is_none() => {
            Line::Section { word, name }
        }
        _ => Line::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_verified_against_the_reference() {
        let section = |word, name| Line::Section { word, name };
        assert_eq!(classify("[tags]"), section("tags", None));
        assert_eq!(
            classify("[ profile  a.b ]"),
            section("profile", Some("a.b"))
        );
        assert_eq!(classify(" [Profile X] \r"), section("Profile", Some("X")));
        for bad in [
            "[profile a b]",
            "[x] # c",
            "[my-sect]",
            "-a = 1",
            "x.y = 1",
            "k v",
            "= v",
            "[x",
            "[]",
        ] {
            assert_eq!(classify(bad), Line::Malformed, "{bad}");
        }
        let key = |key, value| Line::Key { key, value };
        assert_eq!(classify("9x = y"), key("9x", "y"));
        assert_eq!(classify("a-b = 1"), key("a-b", "1"));
        assert_eq!(classify("k==v"), key("k", "=v"));
        assert_eq!(classify("k = v # c"), key("k", "v # c"));
        assert_eq!(classify("k = "), key("k", " "));
        assert_eq!(classify("k="), Line::Malformed);
        assert_eq!(classify("k ="), Line::Malformed);
        assert_eq!(classify("  # k = v"), Line::Empty);
        assert_eq!(classify(" \t"), Line::Empty);
    }
}
