//! What tasks over many hosts have in common: calls under way, of which each end is a result.

use crate::fleet::{Answer, Batch, Call, CallError, Control, Engine, Fault, Piece, Plan, Report};
use crate::model::{HostResult, Outcome, Problem, Reply};
use ctrl_exec_protocol::json::{Bounds, Json, Members, Raw};
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_reactor::http::Response;
use std::sync::Arc;
use std::time::Duration;

/// Longest name of its own that is kept of an agent.
const MAX_NAME: usize = 253;
/// Most text of members that this version does not know, of one answer; beyond it none is kept.
const MAX_MORE: usize = 64 << 10;
/// Longest error of an agent that is kept, in characters.
const MAX_ERROR: usize = 4096;

/// What a task tells while it goes on. The same for every front end.
#[derive(Debug)]
pub enum Event<T> {
    /// The call to this host (by registry name) has begun.
    Begun(String),
    /// Its script wrote something, in a run that is followed.
    Output {
        /// Registry name.
        host: String,
        /// What it wrote, as raw bytes that may end within a character or a line; or how much is
        /// missing here.
        piece: Piece,
    },
    /// It is over.
    Ended(Box<HostResult<T>>),
}

/// A task under way. Its owner pulls events until none is [`left`](Self::left); what has to be
/// logged and recorded of an event is so before it is returned.
pub trait Task {
    /// What a host answers.
    type Reply: Reply;

    /// What happens next; `None` when `timeout` has passed first or nothing is left.
    fn next(&mut self, timeout: Duration) -> Option<Event<Self::Reply>>;

    /// How many hosts have not ended (as far as events were pulled).
    fn left(&self) -> usize;

    /// How many hosts there are.
    fn total(&self) -> usize;

    /// Stops it from anywhere: `finish` begins no further host, `cancel` gives up on all.
    fn control(&self) -> Control;

    /// What the caller should be told although the task goes on.
    fn warnings(&self) -> &[String];
}

/// Calls under way, and what is found out about each besides its result.
#[derive(Debug)]
pub(super) struct Fanout<T, X> {
    batch: Batch<(HostResult<T>, X)>,
}

/// What happened in a [`Fanout`]: as [`Event`], with the call and what was found out.
pub(super) enum Step<T, X> {
    Begun(String),
    Output(String, Piece),
    Ended(usize, HostResult<T>, X),
}

impl<T: Send + 'static, X: Send + 'static> Fanout<T, X> {
    /// Begins calls. `judge` runs on the engine's threads.
    pub fn start(
        engine: &Engine,
        calls: Vec<Call>,
        plan: Plan,
        notify: Option<Box<dyn Fn() + Send + Sync>>,
        judge: impl Fn(&Call, Answer) -> (HostResult<T>, X) + Send + Sync + 'static,
    ) -> Self {
        let judge = move |call: &Call, answer: Answer| {
            let (result, more) = judge(call, answer);
            let failed = result.outcome.is_failure();
            ((result, more), failed)
        };
        Self {
            batch: engine.start(calls, plan, judge, notify),
        }
    }

    pub fn next(&mut self, timeout: Duration) -> Option<Step<T, X>> {
        Some(match self.batch.next(timeout)? {
            Report::Begun(index) => Step::Begun(self.call(index).target.name.clone()),
            Report::Output(index, piece) => {
                Step::Output(self.call(index).target.name.clone(), piece)
            }
            Report::Ended(index, (result, more)) => Step::Ended(index, result, more),
        })
    }

    pub fn call(&self, index: usize) -> &Call {
        &self.batch.calls()[index]
    }

    pub fn calls(&self) -> &Arc<[Call]> {
        self.batch.calls()
    }

    pub fn left(&self) -> usize {
        self.batch.left()
    }

    pub fn control(&self) -> Control {
        self.batch.control().clone()
    }
}

/// An agent that did not give a usable answer.
pub(super) struct Failure {
    pub outcome: Outcome,
    pub problem: Problem,
}

impl Failure {
    /// A call that changes nothing and failed.
    pub fn transport(error: &CallError) -> Self {
        let outcome = match error.fault {
            Fault::NotStarted => Outcome::Skipped,
            Fault::PerlLimit(_) | Fault::Barred(_) | Fault::Lacks { .. } => Outcome::Refused,
            _ => Outcome::Unreached,
        };
        Self {
            outcome,
            problem: Problem {
                error: error.to_string(),
                phase: error.phase(),
            },
        }
    }

    /// A call that starts something and failed: once the request was out, nobody knows.
    pub fn of_run(error: &CallError) -> Self {
        let mut failure = Self::transport(error);
        if let Fault::ReadTimeout(limit) = error.fault {
            failure.problem.error = format!("read timeout after {}s", limit.as_secs());
        }
        if error.sent && failure.outcome == Outcome::Unreached {
            failure.outcome = Outcome::Unknown;
        } else if matches!(
            error.fault,
            Fault::ConnectTimeout | Fault::TlsTimeout | Fault::Tls(_)
        ) {
            // Of a slow link, or a peer that hangs up: was it too late, or did it begin?
            failure.problem.error.push_str("; nothing ran");
        }
        failure
    }

    /// An answer that is not what was asked for.
    pub fn answer(error: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Unreached,
            problem: Problem {
                error: error.into(),
                phase: Some(crate::model::Phase::Http),
            },
        }
    }

    pub fn refused(error: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Refused,
            problem: Problem {
                error: error.into(),
                phase: None,
            },
        }
    }

    /// What a status other than 2xx means: 403 and 413 are the agent's policy.
    pub fn status(response: &Response) -> Self {
        match response.status {
            403 => Self::refused(format!("forbidden: {}", body_error(response))),
            413 => Self::refused("request too large"),
            _ => Self::answer(status_line(response)),
        }
    }
}

pub(super) fn is_success(response: &Response) -> bool {
    (200..300).contains(&response.status)
}

/// `404 Not Found`, as the reference's client library words it.
pub(super) fn status_line(response: &Response) -> String {
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
pub(super) fn body_error(response: &Response) -> String {
    Members::parse(&response.body, &Bounds::RECORD)
        .ok()
        .and_then(|body| body.text("error").map(std::borrow::Cow::into_owned))
        .unwrap_or_else(|| status_line(response))
}

/// The result of a call whose answer was read.
pub(super) fn answered<T: Reply>(
    call: &Call,
    rtt: Duration,
    mut body: Members,
    judge: impl FnOnce(&T, bool) -> Outcome,
) -> HostResult<T> {
    // Ours, whatever the agent says.
    for own in ["outcome", "phase", "rtt", "reported_hostname"] {
        body.remove(own);
    }
    let reported = body.take_text("host");
    body.remove("host");
    let error = match body.text("error").map(std::borrow::Cow::into_owned) {
        Some(error) => {
            body.remove("error");
            Some(error)
        }
        None => None,
    };
    let reqid = body.get("reqid").and_then(Raw::string);
    if !reqid.is_some_and(|reqid| names::is_reqid(&reqid)) {
        body.remove("reqid");
    }
    let has_error = error.is_some() || body.contains("error");
    let reply = T::take(&mut body);
    // Every host's result may be held until the end.
    if !body.is_empty() && body.size() > MAX_MORE {
        let dropped = body.len();
        body = Members::of([("members_dropped", Json::count(dropped))]);
    }
    let error = error.map(|error| error.chars().take(MAX_ERROR).collect::<String>());
    let reported =
        reported.filter(|reported| !reported.is_empty() && *reported != call.target.name);
    HostResult {
        outcome: judge(&reply, has_error),
        problem: error.map(|error| Problem { error, phase: None }),
        reported: reported.map(|name| Untrusted::new(&name).at_most(MAX_NAME).to_string()),
        reply,
        more: body,
        ..failed(call, rtt, Failure::refused(""))
    }
}

/// The result of a call that failed.
pub(super) fn failed<T: Reply>(call: &Call, rtt: Duration, failure: Failure) -> HostResult<T> {
    HostResult {
        host: call.target.name.clone(),
        target: format!("{}:{}", call.target.address(), call.target.port()),
        reported: None,
        outcome: failure.outcome,
        problem: Some(failure.problem),
        rtt,
        reply: T::missing(),
        more: Members::new(),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::fleet::{Identity, Route, Target};

    /// A call to an agent `vm`, with an identity that trusts nobody.
    pub fn call() -> Call {
        let target = Target {
            name: "vm".into(),
            route: Route::Dial {
                address: "10.0.0.1".into(),
                port: 7443,
            },
            knows: String::new(),
            perl: false,
            executor: None,
            features: None,
            paired: None,
            rate: None,
            obstacle: None,
        };
        let nobody = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        Call::get(target, Identity::new(Arc::new(nobody)), "/x")
    }

    pub fn answer_of(status: u16, body: &str) -> Answer {
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
            output: None,
        }
    }

    pub fn answer_failed(fault: Fault, sent: bool) -> Answer {
        let error = CallError {
            fault,
            sent,
            address: "10.0.0.1".into(),
            port: 7443,
        };
        Answer {
            rtt: Duration::from_millis(5),
            result: Err(error),
            certificate: None,
            output: None,
        }
    }
}
