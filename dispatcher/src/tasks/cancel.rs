//! `cancel`: ends runs on agents. An agent ends the script with all that it started, and whoever
//! waits for the run learns it there.

use super::auth::Permit;
use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Failure, Fanout, Step, Task, answered, body_error, failed, is_success};
use super::log::Log;
use super::running::UNSUPPORTED;
use crate::fleet::address;
use crate::fleet::{Answer, Call, Control};
use crate::model::{AppError, Cancelled, HostResult, Outcome};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::json::{Bounds, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::CancelRequest;
use std::sync::Arc;
use std::time::Duration;

/// The `code` of an agent's answer that no such run of this dispatcher is under way there.
pub const NO_SUCH_RUN: &str = "no-such-run";

/// What is to be ended, where and for whom.
#[derive(Clone, Debug, Default)]
pub struct CancelOrder {
    /// Host words, as [`Dispatcher::select`] gives them.
    pub words: Vec<String>,
    /// Port in place of the default one.
    pub port: Option<u16>,
    /// The run to end; `None`: all of this dispatcher.
    pub reqid: Option<String>,
    /// Who asks; advisory.
    pub username: String,
    /// Token for hooks.
    pub token: String,
    /// Address the order came from.
    pub source_ip: String,
}

impl CancelOrder {
    /// The question to the auth hook about this order.
    pub fn hook_request(&self) -> HookRequest {
        HookRequest {
            action: "cancel",
            hosts: self.words.clone(),
            reqid: self.reqid.clone().unwrap_or_default(),
            username: self.username.clone(),
            token: self.token.clone(),
            source_ip: self.source_ip.clone(),
            timestamp: Utc::now().iso(),
            ..HookRequest::default()
        }
    }
}

/// The hosts where a run has no known end, as host words; `None` when there is no record of it.
///
/// # Errors
/// The store's.
pub fn hosts_of(dispatcher: &Dispatcher, reqid: &str) -> Result<Option<Vec<String>>, AppError> {
    let record = dispatcher.runs().load(reqid)?;
    Ok(record.map(|record| record.unended_words()))
}

/// Cancels under way.
#[derive(Debug)]
pub struct Cancel {
    fanout: Fanout<Cancelled, ()>,
    reqid: Option<String>,
    log: Arc<Log>,
    warnings: Vec<String>,
}

/// Begins to cancel. Whoever was allowed to begin a run may end it by the same permit.
///
/// # Errors
/// Unknown agents, or certificates that do not do.
pub fn start(
    dispatcher: &Dispatcher,
    order: &CancelOrder,
    _permit: &Permit,
    limits: Limits,
) -> Result<Cancel, AppError> {
    let targets = address::resolve(&dispatcher.agents(), &order.words, order.port)?;
    let identities = dispatcher.identities(limits.resumption)?;
    let plan = dispatcher.plan(&limits, targets.len())?;
    let request = match &order.reqid {
        Some(reqid) => CancelRequest::One(reqid.clone()),
        None => CancelRequest::All,
    };
    let body: Arc<str> = request.render().into();
    let calls = targets
        .into_iter()
        .map(|target| {
            let identity = identities.of(&target);
            Call::post(target, identity, "/cancel", Arc::clone(&body)).repeatable()
        })
        .collect();
    let judge = |call: &Call, answer: Answer| (cancel_result(call, answer), ());
    Ok(Cancel {
        fanout: Fanout::start(dispatcher.engine(), calls, plan, limits.notify, judge),
        reqid: order.reqid.clone(),
        log: Arc::clone(&dispatcher.log),
        warnings: identities.warning.into_iter().collect(),
    })
}

impl Task for Cancel {
    type Reply = Cancelled;

    fn next(&mut self, timeout: Duration) -> Option<Event<Cancelled>> {
        Some(match self.fanout.next(timeout)? {
            Step::Begun(name) => Event::Begun(name),
            Step::Output(host, piece) => Event::Output { host, piece },
            Step::Ended(_, result, ()) => {
                let ids = match (&self.reqid, &result.reply.cancelled) {
                    (Some(reqid), _) => reqid.clone(),
                    (None, Some(ids)) => ids.join(","),
                    (None, None) => "all".to_owned(),
                };
                let line = Line::new("cancel")
                    .field("AGENT", &result.host)
                    .field("TARGET", &result.target)
                    .field("REQID", ids);
                match result.error() {
                    None => self.log.log(Level::Info, &line.field("RESULT", "ok")),
                    Some(error) => self.log.log(Level::Warning, &line.field("ERROR", error)),
                }
                Event::Ended(Box::new(result))
            }
        })
    }

    fn left(&self) -> usize {
        self.fanout.left()
    }

    fn total(&self) -> usize {
        self.fanout.calls().len()
    }

    fn control(&self) -> Control {
        self.fanout.control()
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The result of a cancel. An agent of release 0.12.3 knows no such request: the run goes on there.
pub fn cancel_result(call: &Call, answer: Answer) -> HostResult<Cancelled> {
    let rtt = answer.rtt;
    let refused = |error: &str, code: &str| {
        let mut result: HostResult<Cancelled> = failed(call, rtt, Failure::refused(error));
        result.reply.code = Some(code.to_owned());
        result
    };
    let response = match answer.result {
        Ok(response) => response,
        Err(error) => return failed(call, rtt, Failure::transport(&error)),
    };
    match response.status {
        404 if body_error(&response) == "no such run" => refused(
            "no such run of this dispatcher is under way there: it has ended, or never began",
            NO_SUCH_RUN,
        ),
        404 => refused(
            "cannot end runs: it is of release 0.12.3, or does not know this request; what runs \
             there goes on",
            UNSUPPORTED,
        ),
        _ if !is_success(&response) => failed(call, rtt, Failure::status(&response)),
        _ => match Members::parse(&response.body, &Bounds::RECORD).ok() {
            Some(body) => answered(call, rtt, body, |reply: &Cancelled, _| {
                match reply.cancelled {
                    Some(_) => Outcome::Ok,
                    None => Outcome::Refused,
                }
            }),
            None => failed(call, rtt, Failure::answer("invalid JSON")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_of, call};
    use super::*;

    #[test]
    fn answers() {
        for (status, body, expected) in [
            (
                200,
                r#"{"status":"ok","cancelled":["r1","r2"]}"#,
                r#"{"cancelled":["r1","r2"],"host":"vm","outcome":"ok","rtt":"5ms"}"#,
            ),
            (
                200,
                r#"{"status":"error","error":"either reqid or all is needed"}"#,
                r#"{"error":"either reqid or all is needed","host":"vm","outcome":"refused","rtt":"5ms"}"#,
            ),
            (
                403,
                r#"{"error":"serial mismatch"}"#,
                r#"{"error":"forbidden: serial mismatch","host":"vm","outcome":"refused","rtt":"5ms"}"#,
            ),
        ] {
            let result = cancel_result(&call(), answer_of(status, body));
            assert_eq!(result.to_json(), expected);
        }
        let code = |status, body| cancel_result(&call(), answer_of(status, body)).reply.code;
        let gone = code(404, r#"{"error":"no such run"}"#);
        assert_eq!(gone.as_deref(), Some(NO_SUCH_RUN));
        for old in [r#"{"error":"not found"}"#, "", "<html>"] {
            assert_eq!(code(404, old).as_deref(), Some(UNSUPPORTED), "{old}");
        }
    }
}
