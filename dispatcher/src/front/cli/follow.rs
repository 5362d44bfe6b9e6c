//! `--follow`: what scripts write, line by line as it comes, with the host before every line.

use super::args::Args;
use super::flags::JSON_LINES;
use super::out::{self, clean};
use crate::fleet::{Piece, Stream};
use crate::model::{Parts, gap_line};
use ctrl_exec_protocol::json::{Json, Members};
use std::collections::HashMap;

/// The longest line that is waited for; of a longer one each part is shown as a line.
const LONGEST: usize = 16 << 10;

/// Lines of which the end has not come, by host and output.
pub struct Follow {
    begun: HashMap<(String, bool), Vec<u8>>,
    as_json: bool,
}

impl Follow {
    /// As the flags say: lines of text, or of JSON.
    pub fn new(args: &Args) -> Self {
        Self {
            begun: HashMap::new(),
            as_json: args.has(&JSON_LINES),
        }
    }

    /// Shows what is whole of it.
    pub fn show(&mut self, host: &str, piece: Piece) {
        let (stream, bytes) = match piece {
            Piece::Bytes(stream, bytes) => (stream, bytes),
            Piece::Gap(stream, missing) => {
                self.flush(host, stream);
                return self.gap(host, stream, missing);
            }
        };
        let line = self.begun.entry(key(host, stream)).or_default();
        line.extend_from_slice(&bytes);
        let whole = match line.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if line.len() > LONGEST => cut(line),
            None => return,
        };
        let rest = line.split_off(whole);
        let lines = std::mem::replace(line, rest);
        self.print(host, stream, &lines);
    }

    /// Nothing more comes of this host: shows what is left.
    pub fn end(&mut self, host: &str) {
        for stream in [Stream::Out, Stream::Err] {
            self.flush(host, stream);
        }
    }

    fn flush(&mut self, host: &str, stream: Stream) {
        if let Some(line) = self.begun.remove(&key(host, stream)) {
            if !line.is_empty() {
                self.print(host, stream, &line);
            }
        }
    }

    fn print(&self, host: &str, stream: Stream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if self.as_json {
            return event(host, stream, "text", Json::text(&*text));
        }
        let errors = stream == Stream::Err;
        let parts = Parts {
            head: &text,
            gap: None,
            tail: "",
        };
        let shown = out::prefixed(&clean(host), parts, errors);
        if errors {
            out::error_raw(&shown);
        } else {
            out::raw(&shown);
        }
    }

    fn gap(&self, host: &str, stream: Stream, missing: u64) {
        if self.as_json {
            let missing = Json::integer(i64::try_from(missing).unwrap_or(i64::MAX));
            return event(host, stream, "missing", missing);
        }
        let shown = format!("{}: {}\n", clean(host), gap_line(missing));
        if stream == Stream::Err {
            out::error_raw(&shown);
        } else {
            out::raw(&shown);
        }
    }
}

/// One line of JSON: `event` tells it from a result.
fn event(host: &str, stream: Stream, what: &str, value: Json) {
    let stream = match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    };
    out::line(
        Members::of([
            ("event", Json::text("output")),
            ("host", Json::text(host)),
            ("stream", Json::text(stream)),
            (what, value),
        ])
        .render(),
    );
}

fn key(host: &str, stream: Stream) -> (String, bool) {
    (host.to_owned(), stream == Stream::Err)
}

/// Where to cut a line that is too long: not within a character.
fn cut(line: &[u8]) -> usize {
    let begins = |byte: &u8| byte & 0xc0 != 0x80;
    let near = line.len().saturating_sub(4);
    let last = line[near..].iter().rposition(begins);
    last.map_or(line.len(), |at| near + at).max(1)
}
