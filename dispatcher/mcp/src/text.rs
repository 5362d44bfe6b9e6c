//! Text of agents: harmless to show, and bounded.

use std::fmt::Write as _;

/// `text` with control characters, bidirectional marks and the like written as escapes; line ends and
/// tabs stay.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        match c {
            '\n' | '\t' => out.push(c),
            _ if c.is_control() || hidden => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

/// At most `limit` characters of `text`: head and tail, and between them what was left out. The second
/// value says whether anything was.
pub fn capped(text: &str, limit: usize) -> (String, bool) {
    let count = text.chars().count();
    if count <= limit {
        return (text.to_owned(), false);
    }
    let head = limit * 2 / 3;
    let tail = limit - head;
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (&text[..at(head)], &text[at(count - tail)..]);
    let left_out = count - limit;
    (
        format!("{head}\n[... {left_out} characters left out ...]\n{tail}"),
        true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_screen_or_hides_is_shown() {
        assert_eq!(harmless("a\tb\nc"), "a\tb\nc");
        assert_eq!(
            harmless("\x1b[2J\r\u{202e}x\u{e0041}\u{85}"),
            "\\u{1b}[2J\\u{d}\\u{202e}x\\u{e0041}\\u{85}"
        );
        assert_eq!(harmless("grün 日本"), "grün 日本");
    }

    #[test]
    fn head_and_tail_are_kept() {
        assert_eq!(capped("short", 5), ("short".to_owned(), false));
        let text: String = (0..100).map(|n| char::from(b'a' + n % 26)).collect();
        let (shown, cut) = capped(&text, 9);
        assert!(cut);
        assert_eq!(shown, "abcdef\n[... 91 characters left out ...]\ntuv");
        let (shown, _) = capped(&"ü".repeat(50), 3);
        assert_eq!(shown, "üü\n[... 47 characters left out ...]\nü");
        assert!(capped("abc", 0).0.contains("3 characters left out"));
    }
}
