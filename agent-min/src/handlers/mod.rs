//! What the agent answers. A handler is a function of the agent's state and a request; it returns
//! a [`Step`], which the loop carries out. Handlers know no sockets and start no processes.

mod capabilities;
mod control;
mod ping;
mod renew;
mod result;
mod rotate;
mod run;
mod trust;

pub use control::{cancelled, runs_listed};
pub use run::{async_outcome, recheck, refuse_busy, refuse_cancelled, run_outcome};

use crate::config::Loaded;
use crate::config::paths::Paths;
use crate::runs::run::Run;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::{Denial, HookEnd, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{self, CancelRequest, Features, RUN_INPUT, RotateRequest};
use std::net::IpAddr;
use std::rc::Rc;

/// What the handlers may look at and change.
pub struct State {
    /// File locations.
    pub paths: Paths,
    /// This host's name, as peers see it.
    pub host: String,
    /// When this agent has started, in seconds since boot.
    pub started: u64,
    /// Everything a reload replaces.
    pub loaded: Loaded,
    /// Lines to be logged, in order; the loop takes them after each call.
    pub lines: Vec<(Level, Line)>,
}

/// The caller of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// Loaded serial of its certificate: lower-case hex, two digits per byte.
    pub serial: Rc<str>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Method, case-sensitive.
    pub method: &'a str,
    /// Path, matched exactly.
    pub path: &'a str,
    /// Body.
    pub body: &'a [u8],
    /// Whether a dispatcher of release 0.12.3 sent it.
    pub from_perl: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON text.
    pub body: String,
}

/// What the loop is to do next for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this and be done.
    Reply(Reply),
    /// Run the auth hook, then call [`hook_done`].
    AskHook(Box<HookRequest>, Intent),
    /// Run a script and answer with its result.
    Run(Box<Run>),
    /// Start a script that outlives the request.
    RunAsync(Box<Run>),
    /// List what runs for this dispatcher.
    ListRuns(String),
    /// End what this dispatcher asks for.
    Cancel(String, CancelRequest),
}

/// What this agent can do beyond the reference.
const FEATURES: Features = Features {
    runs: true,
    cancel: true,
    time_limit: true,
    unpaced: true,
    stream: true,
    stdin: true,
};

/// What was asked, kept while the hook decides.
#[derive(Debug, PartialEq, Eq)]
pub enum Intent {
    /// `GET /capabilities`.
    Capabilities,
    /// `POST /rotate-serial`.
    Rotate(RotateRequest),
    /// `POST /run`.
    Run(Box<Run>),
}

/// Handles one request (agent.md §2).
pub fn handle(state: &mut State, peer: &Peer, call: Call<'_>) -> Step {
    if state.loaded.revoked.contains(&peer.serial) {
        return Step::Reply(revoked(state, peer));
    }
    match (call.method, call.path) {
        ("POST", "/run" | RUN_INPUT) => run::request(state, peer, call),
        ("POST", "/ping") => ping::request(state, peer, call.body),
        ("GET", "/runs") => control::runs(state, peer),
        ("POST", "/cancel") => control::cancel(state, peer, call.body),
        ("GET", "/capabilities") => capabilities::request(state, peer),
        ("POST", "/rotate-serial") => rotate::request(state, peer, call.body),
        ("POST", "/trust") => trust::request(state, peer, call.body),
        ("POST", "/renew") => renew::request(state, peer, call.body),
        ("POST", "/renew-complete") => renew::complete(state, peer, call.body),
        ("GET", path) => match path.strip_prefix("/result/") {
            Some(reqid) => result::request(state, peer, reqid),
            None => Step::Reply(not_found()),
        },
        _ => Step::Reply(not_found()),
    }
}

/// Continues after the hook of [`Step::AskHook`] has ended.
pub fn hook_done(state: &mut State, peer: &Peer, intent: Intent, end: HookEnd) -> Step {
    let denied = end.verdict().err();
    if end == HookEnd::TimedOut {
        let timeout = state.loaded.conf.auth_hook_timeout;
        state.warn(Line::new("auth-hook-timeout").field("TIMEOUT", timeout));
    }
    decided(state, peer, intent, denied)
}

/// The hook cannot be asked this question whole, which is a denial.
pub fn hook_denied(state: &mut State, peer: &Peer, intent: Intent, denial: Denial) -> Step {
    decided(state, peer, intent, Some(denial))
}

/// The hook could not be asked: it is gone or not executable.
pub fn hook_missing(state: &mut State, peer: &Peer, intent: Intent) -> Step {
    let hook = state.loaded.conf.auth_hook.clone().unwrap_or_default();
    state.error(
        Line::new("auth")
            .field("RESULT", "error")
            .field("REASON", "hook-not-executable")
            .field("HOOK", &hook),
    );
    let denial = Denial::not_executable(&hook);
    match intent {
        Intent::Run(run) => run::denied(state, peer, &run, &denial),
        Intent::Capabilities => capabilities::denied(state, peer, &denial),
        Intent::Rotate(_) => rotate::denied(state, peer, &denial),
    }
}

/// The answer to a revoked certificate, whatever it asks.
pub fn revoked(state: &mut State, peer: &Peer) -> Reply {
    state.warn(
        Line::new("revoked-cert")
            .field("PEER", peer.ip)
            .field("SERIAL", &peer.serial),
    );
    revoked_reply()
}

fn revoked_reply() -> Reply {
    Reply {
        status: 403,
        body: messages::error_body("certificate revoked"),
    }
}

fn mismatch_reply() -> Reply {
    Reply {
        status: 403,
        body: messages::forbidden_body("serial mismatch"),
    }
}

impl State {
    fn info(&mut self, line: Line) {
        self.lines.push((Level::Info, line));
    }

    fn warn(&mut self, line: Line) {
        self.lines.push((Level::Warning, line));
    }

    fn error(&mut self, line: Line) {
        self.lines.push((Level::Err, line));
    }

    /// The dispatcher id of a trusted caller.
    fn dispatcher(&self, peer: &Peer) -> Option<String> {
        self.loaded.trusted.owner(&peer.serial).map(str::to_owned)
    }

    /// The dispatcher id of the caller, or the answer of §2 to one that is not trusted.
    fn trusted(&mut self, peer: &Peer, reqid: &str) -> Result<String, Step> {
        self.admit(peer, reqid)?;
        Ok(self.dispatcher(peer).unwrap_or_default())
    }

    /// As [`State::trusted`], where the id is not kept.
    fn admit(&mut self, peer: &Peer, reqid: &str) -> Result<(), Step> {
        if self.loaded.trusted.owner(&peer.serial).is_some() {
            return Ok(());
        }
        let here = peer.ip.is_loopback() || Some(peer.ip) == self.loaded.conf.bind;
        if here && *peer.serial == *self.loaded.identity.serial {
            // Who has the own key and is on this very host is `self-ping`.
            self.info(Line::new("self-ping").field("PEER", peer.ip));
            return Err(Step::Reply(mismatch_reply()));
        }
        if self.loaded.trusted.has_twin(&peer.serial) {
            self.warn(
                Line::new("serial-ambiguous")
                    .field("PEER", peer.ip)
                    .field("PEER_SERIAL", &peer.serial)
                    .field(
                        "MSG",
                        "a serial of digits only is trusted only by an entry with colons",
                    ),
            );
        }
        self.warn(
            Line::new("serial-reject")
                .field("PEER", peer.ip)
                .field("PEER_SERIAL", &peer.serial)
                .field("REQID", reqid),
        );
        Err(Step::Reply(mismatch_reply()))
    }

    /// The step that asks the hook when there is one, else `None`.
    fn hook(&self) -> bool {
        self.loaded.conf.auth_hook.is_some()
    }
}

fn decided(state: &mut State, peer: &Peer, intent: Intent, denial: Option<Denial>) -> Step {
    let (action, user) = match &intent {
        Intent::Run(run) => ("run", run.request.username.clone()),
        Intent::Capabilities => ("discovery", String::new()),
        Intent::Rotate(_) => ("rotate", String::new()),
    };
    let user = if user.is_empty() {
        "(none)".to_owned()
    } else {
        user
    };
    let line = Line::new("auth")
        .field("AUTHACTION", action)
        .field("USER", user)
        .field("IP", peer.ip);
    match &denial {
        None => state.info(line.field("RESULT", "pass")),
        Some(denial) => state.warn(line.field("RESULT", "deny").field("REASON", &denial.reason)),
    }
    if denial.is_none() && state.loaded.revoked.contains(&peer.serial) {
        // Revoked while the hook decided.
        return Step::Reply(revoked(state, peer));
    }
    match (intent, denial) {
        (Intent::Run(run), None) => run::allowed(state, run),
        (Intent::Run(run), Some(denial)) => run::denied(state, peer, &run, &denial),
        (Intent::Capabilities, None) => capabilities::allowed(state, peer),
        (Intent::Capabilities, Some(denial)) => capabilities::denied(state, peer, &denial),
        (Intent::Rotate(request), None) => rotate::allowed(state, peer, &request),
        (Intent::Rotate(_), Some(denial)) => rotate::denied(state, peer, &denial),
    }
}

fn ok(body: String) -> Step {
    Step::Reply(Reply { status: 200, body })
}

fn not_found() -> Reply {
    Reply {
        status: 404,
        body: messages::error_body("not found"),
    }
}

#[cfg(test)]
mod tests;
