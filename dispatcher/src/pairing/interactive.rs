//! The prompt of an interactive session (pki-and-pairing.md §8).
//!
//! Numbers mean what was last displayed: a request that arrives between display and command can
//! not take another's number. (The reference looks the position up again: DEVIATE; `a0` acts on
//! the last one there: refused here.)

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_reactor::Waker;

use super::desk::{printable, reverse_text};
use super::{Desk, DeskError, Operator, Overrides, Queued};

/// Longest line taken from the operator.
const MAX_LINE: usize = 4096;
const HELP: &str = "Commands: a [approve], d [deny], s [skip] for a single request; a<n>, d<n> for \
                    request n of the list; r, r<n> [approve and replace the agent of that name]; \
                    l [list]; q [quit].\n";

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Approve this request.
    Approve(String),
    /// Approve this request, and take the name from the agent that has it.
    Replace(String),
    /// Deny this request.
    Deny(String),
    /// Show the queue.
    List,
    /// Print this.
    Say(String),
    /// End the session.
    Quit,
    /// Nothing.
    Nothing,
}

/// Which requests stand behind the displayed numbers, and which codes were displayed with them.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    shown: Vec<String>,
    codes: HashMap<String, String>,
}

impl Prompt {
    /// The text that shows the pending requests; their numbers hold until the next call.
    pub fn show(&mut self, pending: &[Queued], desk: &Desk) -> String {
        self.shown = pending.iter().map(|queued| queued.id.clone()).collect();
        let codes = pending.iter().map(|q| (q.id.clone(), q.code.clone()));
        self.codes = codes.collect();
        match pending {
            [] => "No pending requests.\n".to_owned(),
            [only] => {
                let mut out = details(only, desk);
                out.push_str("[a]pprove, [d]eny, [s]kip? ");
                out
            }
            several => {
                let mut out = format!("\n{} pending requests:\n", several.len());
                for (number, queued) in (1..).zip(several) {
                    let _ = writeln!(
                        out,
                        "  {number}. {}  from {}  code {}  id {}  ({})",
                        queued.hostname,
                        printable(&queued.source_ip),
                        printable(&queued.code),
                        queued.id,
                        reverse_text(queued)
                    );
                    for warning in desk.warnings(queued) {
                        let _ = writeln!(out, "     Warning: {warning}");
                    }
                }
                out.push_str("a<n> approves, d<n> denies, l lists, q quits: ");
                out
            }
        }
    }

    /// The code that was displayed with a request; what is approved must have it.
    pub fn code(&self, id: &str) -> Option<String> {
        self.codes.get(id).cloned()
    }

    /// What a line means now. `pending` are the ids that are still undecided.
    pub fn line(&self, line: &str, pending: &[String]) -> Reaction {
        let line = line.trim();
        let say = |text: &str| Reaction::Say(format!("{text}\n"));
        let (verb, number) = match line {
            "" => return Reaction::Nothing,
            "s" | "skip" => return say("Left pending."),
            "l" | "list" => return Reaction::List,
            "q" | "quit" => return Reaction::Quit,
            "a" | "A" => ('a', None),
            "d" | "D" => ('d', None),
            "r" | "R" => ('r', None),
            _ => match line.split_at_checked(1) {
                Some(("a", digits)) => ('a', Some(digits)),
                Some(("d", digits)) => ('d', Some(digits)),
                Some(("r", digits)) => ('r', Some(digits)),
                _ => return say(HELP.trim_end()),
            },
        };
        let id = match number {
            None => match (self.shown.as_slice(), pending) {
                (_, []) => return say("No pending requests."),
                ([shown], [only]) if shown == only => shown,
                _ => {
                    let list = "Several requests: say which (a<n> or d<n>) after 'l'.";
                    return say(list);
                }
            },
            Some(digits) => {
                let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                if !good {
                    return say(HELP.trim_end());
                }
                let index = digits
                    .parse::<usize>()
                    .ok()
                    .and_then(|number| number.checked_sub(1));
                match index.and_then(|index| self.shown.get(index)) {
                    Some(id) => id,
                    None => return say(&format!("There is no request number {digits}.")),
                }
            }
        };
        if !pending.contains(id) {
            return say(&format!("Request {id} is gone."));
        }
        let id = id.clone();
        match verb {
            'a' => Reaction::Approve(id),
            'r' => Reaction::Replace(id),
            _ => Reaction::Deny(id),
        }
    }
}

fn details(queued: &Queued, desk: &Desk) -> String {
    let name = &queued.hostname;
    let mut out = format!("\nPairing request from {name}\n");
    let mut row = |key: &str, value: &str| {
        let _ = writeln!(out, "  {key:<14}{}", printable(value));
    };
    row("Source IP:", &queued.source_ip);
    if queued.ip != queued.source_ip {
        row("Reported IP:", &queued.ip);
    }
    row("Reverse DNS:", &reverse_text(queued));
    row("ID:", &queued.id);
    row("Received:", &queued.received);
    row("Code:", &queued.code);
    for warning in desk.warnings(queued) {
        let _ = writeln!(out, "  Warning: {warning}");
    }
    let _ = match (
        queued.reverse_confirmed,
        queued.reverse_dns.eq_ignore_ascii_case(name),
    ) {
        (true, true) => writeln!(
            out,
            "  The name resolves to the source: look-up by name is fine."
        ),
        (true, false) => writeln!(
            out,
            "  Afterwards perhaps: edit-agent {name} --rename {}",
            printable(&queued.reverse_dns)
        ),
        (false, _) => writeln!(
            out,
            "  Afterwards perhaps: edit-agent {name} --lookup-by ip --ip {}",
            printable(&queued.source_ip)
        ),
    };
    out.push_str("  Compare the code with the one the agent shows.\n");
    out
}

/// An operator at a terminal.
pub struct Console<W: Write> {
    desk: Desk,
    log: Syslog,
    prompt: Prompt,
    lines: Receiver<Option<String>>,
    out: W,
}

impl<W: Write> Console<W> {
    /// Reads lines from `input` in a thread of its own, which wakes the loop for each; end of file
    /// makes the session a silent one. `log` is for the decisions made here.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        desk: Desk,
        log: Syslog,
        mut input: impl BufRead + Send + 'static,
        waker: Waker,
        out: W,
    ) -> std::io::Result<Self> {
        let (sender, lines) = sync_channel(16);
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                loop {
                    let line = read_line(&mut input);
                    let last = line.is_none();
                    if sender.send(line).is_err() || waker.wake().is_err() || last {
                        return;
                    }
                }
            })?;
        Ok(Self {
            desk,
            log,
            prompt: Prompt::default(),
            lines,
            out,
        })
    }

    fn say(&mut self, text: &str) {
        // A terminal that went away is no reason to stop pairing.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    fn show(&mut self) {
        let pending = self.desk.queue.pending().unwrap_or_default();
        let text = self.prompt.show(&pending, &self.desk);
        self.say(&text);
    }

    /// Carries one line out; `true` ends the session.
    fn obey(&mut self, line: &str) -> bool {
        let pending = self.desk.queue.pending().unwrap_or_default();
        let ids: Vec<String> = pending.into_iter().map(|queued| queued.id).collect();
        match self.prompt.line(line, &ids) {
            Reaction::Nothing => {}
            Reaction::Quit => return true,
            Reaction::List => self.show(),
            Reaction::Say(text) => self.say(&text),
            Reaction::Approve(id) => self.approve(&id, false),
            Reaction::Replace(id) => self.approve(&id, true),
            Reaction::Deny(id) => {
                let text = match self.desk.deny(&id, &self.log) {
                    Ok(queued) => format!("Denied request '{}'.\n", queued.id),
                    Err(error) => format!("Not denied: {error}\n"),
                };
                self.say(&text);
                self.rest();
            }
        }
        false
    }

    /// Approves what was displayed: not whatever has taken its place meanwhile.
    fn approve(&mut self, id: &str, replace: bool) {
        let overrides = Overrides {
            code: self.prompt.code(id),
            replace,
            ..Overrides::default()
        };
        let text = match self.desk.approve(id, &overrides, &self.log, Utc::now()) {
            Ok(approved) => approved.text(),
            Err(DeskError::Taken(taken)) => format!(
                "Not approved: {taken}. 'r' (or r<n>) in place of 'a' takes the name from it and \
                 bars its certificates.\n"
            ),
            Err(error) => format!("Not approved: {error}\n"),
        };
        self.say(&text);
        self.rest();
    }

    /// Shows what is left after a decision, if anything.
    fn rest(&mut self) {
        if self.desk.queue.is_empty().is_ok_and(|empty| !empty) {
            self.show();
        }
    }
}

impl<W: Write> Operator for Console<W> {
    fn arrived(&mut self, _: &Queued) {
        self.show();
    }

    fn gone(&mut self, queued: &Queued, why: &str) {
        self.say(&format!(
            "\nRequest {} of {} is gone: {why}.\n",
            queued.id, queued.hostname
        ));
    }

    fn draining(&mut self, waiting: usize) {
        self.say(&format!(
            "\nThe session is over; no new requests are accepted. {waiting} still wait(s) for a \
             decision (q ends it).\n"
        ));
    }

    fn input(&mut self) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            let quit = line.is_some_and(|line| self.obey(&line));
            if quit {
                return true;
            }
        }
        false
    }
}

/// One line, cut at [`MAX_LINE`]; `None` at the end.
fn read_line(input: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let bytes = input.fill_buf().ok()?;
        if bytes.is_empty() {
            return (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned());
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let room = MAX_LINE.saturating_sub(line.len());
        line.extend(bytes.iter().take(taken.min(room)));
        input.consume(taken);
        if end.is_some() {
            return Some(String::from_utf8_lossy(&line).into_owned());
        }
    }
}
