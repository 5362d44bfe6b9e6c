//! Where the messages of `request-pairing` go.

use ctrl_exec_host::stderr;
use std::io::{self, Write};

/// Where messages go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Messages {
    /// Standard output and error.
    Terminal,
    /// Lines on standard output for the process that started this one.
    Parent,
}

impl Messages {
    pub(super) fn say(self, text: &str) {
        match self {
            Messages::Terminal => print_line(text),
            Messages::Parent => self.warn(text),
        }
    }

    pub(super) fn warn(self, text: &str) {
        match self {
            Messages::Terminal => eprint_line(text),
            Messages::Parent => text
                .lines()
                .for_each(|line| print_line(&format!("E{line}"))),
        }
    }

    /// The request waits for the operator's decision.
    pub(super) fn queued(self, reqid: &str) {
        match self {
            Messages::Terminal => {
                print_line(&format!("Request {reqid} is waiting for approval..."))
            }
            Messages::Parent => print_line(&format!("R{reqid}")),
        }
    }
}

/// A closed standard output must not end a background process.
fn print_line(text: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

pub(super) fn eprint_line(text: &str) {
    stderr::write(format!("{text}\n").as_bytes());
}
