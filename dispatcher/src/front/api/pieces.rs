//! Output that comes in pieces, as text: a piece may end within a character.

use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::live::{Piece, Stream};
use std::collections::HashMap;

/// The ends of characters that have not come yet, by host and stream.
#[derive(Debug, Default)]
pub struct Pieces {
    begun: HashMap<(String, bool), Vec<u8>>,
}

impl Pieces {
    /// A piece as an event says it; `None` when it is only the beginning of a character.
    pub fn object(&mut self, host: &str, piece: Piece) -> Option<Members> {
        let (stream, member) = match piece {
            Piece::Bytes(stream, bytes) => {
                let is_err = stream == Stream::Err;
                let begun = self.begun.entry((host.to_owned(), is_err)).or_default();
                begun.extend_from_slice(&bytes);
                let whole = whole(begun);
                let text = String::from_utf8_lossy(&begun[..whole]).into_owned();
                begun.drain(..whole);
                if text.is_empty() {
                    return None;
                }
                (stream, ("data", Json::text(text)))
            }
            Piece::Gap(stream, missing) => {
                let missing = usize::try_from(missing).unwrap_or(usize::MAX);
                (stream, ("missing", Json::count(missing)))
            }
        };
        let word = match stream {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        };
        let named = ("host", Json::text(host));
        Some(Members::of([named, ("stream", Json::text(word)), member]))
    }

    /// A host has ended.
    pub fn end(&mut self, host: &str) {
        self.begun.retain(|(name, _), _| name != host);
    }
}

/// How much of these bytes ends with a whole character, or with what can be none.
fn whole(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) => {
            // Faults inside do not matter here: only what the last three bytes begin.
            let from = bytes.len().saturating_sub(3).max(error.valid_up_to());
            let begins = (from..bytes.len()).find(|at| {
                let rest = &bytes[*at..];
                std::str::from_utf8(rest)
                    .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
            });
            begins.unwrap_or(bytes.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_torn() {
        let mut pieces = Pieces::default();
        let mut texts = String::new();
        for byte in "aé€😀\n".bytes().chain([0xff, b'b']) {
            let piece = Piece::Bytes(Stream::Out, vec![byte]);
            if let Some(object) = pieces.object("h", piece) {
                texts.push_str(&object.text("data").unwrap_or_default());
            }
        }
        assert_eq!(texts, "aé€😀\n\u{fffd}b");
        let gap = pieces
            .object("h", Piece::Gap(Stream::Err, 7))
            .map(|o| o.render());
        assert_eq!(
            gap.as_deref(),
            Some(r#"{"host":"h","missing":7,"stream":"stderr"}"#)
        );
    }
}
