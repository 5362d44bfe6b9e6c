//! What each request to an agent means, and the result objects of its answers
//! (dispatcher.md §9). Objects are those of the reference, with two members more: `outcome` and,
//! when the agent was not reached, `phase`.

pub mod auth;
pub mod doctor;
mod ping;
pub mod renew;
mod result;
pub mod revoke;
mod run;

pub use ping::{
    capabilities_call, capabilities_result, ping_call, ping_result, rotate_call, rotate_result,
};
pub use result::{Fetched, result_call, result_of};
pub use run::{RunBody, async_entry, async_result, run_call, run_result};

use crate::fleet::{Answer, CallError, Fault};
use crate::jval::{self, Object, Value};
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_reactor::http::Response;
use std::time::Duration;

/// The kinds of end a call can have.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// Done, with success.
    Ok,
    /// The script ran and failed.
    Failed,
    /// The agent refused by policy.
    Refused,
    /// The agent was not reached, or its answer made no sense.
    Unreached,
    /// Never started.
    Skipped,
}

impl Outcome {
    /// The word in JSON and text.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unreached => "unreached",
            Self::Skipped => "skipped",
        }
    }

    /// The outcome a result object tells.
    pub fn of(result: &Object) -> Self {
        match jval::str_or_empty(result, "outcome") {
            "ok" => Self::Ok,
            "refused" => Self::Refused,
            "unreached" => Self::Unreached,
            "skipped" => Self::Skipped,
            _ => Self::Failed,
        }
    }
}

/// `42ms`.
pub fn rtt_text(rtt: Duration) -> String {
    format!("{}ms", (rtt.as_micros() + 500) / 1000)
}

/// An agent that did not give a usable answer: the words for `error`, and the outcome.
struct Failure {
    error: String,
    outcome: Outcome,
    phase: Option<&'static str>,
}

impl Failure {
    fn transport(error: &CallError) -> Self {
        let outcome = match error.fault {
            Fault::NotStarted => Outcome::Skipped,
            Fault::PerlLimit(_) | Fault::Barred(_) => Outcome::Refused,
            _ => Outcome::Unreached,
        };
        Self {
            error: error.to_string(),
            outcome,
            phase: error.phase().map(|phase| phase.word()),
        }
    }

    /// An answer that is not what was asked for.
    fn answer(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            outcome: Outcome::Unreached,
            phase: Some("http"),
        }
    }

    fn refused(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            outcome: Outcome::Refused,
            phase: None,
        }
    }

    /// What a status other than 2xx means: 403 and 413 are the agent's policy.
    fn status(response: &Response) -> Self {
        match response.status {
            403 => Self::refused(format!("forbidden: {}", body_error(response))),
            413 => Self::refused("request too large"),
            _ => Self::answer(status_line(response)),
        }
    }

    /// Adds `error`, `outcome` and `phase` to a result.
    fn put(self, result: &mut Object) {
        result.insert("error".to_owned(), jval::string(self.error));
        put_outcome(result, self.outcome);
        if let Some(phase) = self.phase {
            result.insert("phase".to_owned(), jval::string(phase));
        }
    }
}

fn put_outcome(result: &mut Object, outcome: Outcome) {
    result.insert("outcome".to_owned(), jval::string(outcome.word()));
}

fn is_success(response: &Response) -> bool {
    (200..300).contains(&response.status)
}

/// `404 Not Found`, as the reference's client library words it.
fn status_line(response: &Response) -> String {
    let reason: String = response
        .reason
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect();
    format!("{} {reason}", response.status)
        .trim_end()
        .to_owned()
}

/// The `error` of a JSON body, else the status line.
fn body_error(response: &Response) -> String {
    jval::parse_object(&response.body)
        .and_then(|body| jval::text(&body, "error").map(std::borrow::Cow::into_owned))
        .unwrap_or_else(|| status_line(response))
}

/// Longest name of its own that is kept of an agent.
const MAX_NAME: usize = 253;

/// Adds what every result carries: registry name and round-trip time. The agent's own name stays
/// as `reported_hostname` when it is another.
fn finish(result: &mut Object, name: &str, answer: &Answer) {
    if let Some(Value::String(reported)) = result.get("host") {
        if !reported.is_empty() && reported != name {
            let reported = Untrusted::new(reported).at_most(MAX_NAME).to_string();
            result.insert("reported_hostname".to_owned(), jval::string(reported));
        }
    }
    if !names::is_reqid(jval::str_or_empty(result, "reqid")) {
        result.remove("reqid");
    }
    result.insert("host".to_owned(), jval::string(name));
    result.insert("rtt".to_owned(), jval::string(rtt_text(answer.rtt)));
}

#[cfg(test)]
pub(crate) fn answer_of(status: u16, body: &str) -> Answer {
    let response = Response {
        status,
        reason: ctrl_exec_reactor::http::phrase(status).to_owned(),
        body: body.as_bytes().to_vec(),
        ..Response::default()
    };
    Answer {
        rtt: Duration::from_millis(5),
        result: Ok(response),
        certificate: None,
    }
}

#[cfg(test)]
pub(crate) fn answer_failed(fault: Fault) -> Answer {
    let error = CallError {
        fault,
        sent: false,
        address: "10.0.0.1".into(),
        port: 7443,
    };
    Answer {
        rtt: Duration::from_millis(5),
        result: Err(error),
        certificate: None,
    }
}
