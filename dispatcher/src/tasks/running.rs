//! `running`: what runs on agents for this dispatcher, as they say themselves.

use super::auth::Permit;
use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Failure, Fanout, Step, Task, answered, failed, is_success};
use super::log::Log;
use super::ping::Inquiry;
use crate::fleet::address;
use crate::fleet::{Answer, Call, Control, Identity, Target};
use crate::model::{AppError, HostResult, Outcome, Running};
use crate::store::locks::Locks;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{Bounds, Members, Raw};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// The `code` of an agent's answer that shows that it does not know the request.
pub const UNSUPPORTED: &str = "unsupported";

/// Questions under way.
#[derive(Debug)]
pub struct RunningOn {
    fanout: Fanout<Running, ()>,
    log: Arc<Log>,
    warnings: Vec<String>,
    locks: Arc<dyn Locks>,
    /// Runs that had left locks when the questions were asked: host and request id.
    left: HashSet<(String, String)>,
    /// When the questions began, in seconds since 1970.
    asked: i64,
    /// What hosts told, by registry name, and when; `None` once that was made use of.
    told: Option<HashMap<String, (Running, i64)>>,
}

impl RunningOn {
    /// Runs that had left a lock as their end was not known: those that an agent does not list are
    /// over. Of a run that was under way when the question was asked the answer says nothing.
    fn settle(&mut self) {
        let Some(told) = self.told.take().filter(|told| !told.is_empty()) else {
            return;
        };
        let (left, asked) = (&self.left, self.asked);
        let settled = self.locks.settle(&|note| {
            let listed = told.get(&note.host);
            left.contains(&(note.host.clone(), note.reqid.clone()))
                && listed.is_some_and(|(told, at)| {
                    told.shows_end_of(&note.reqid, note.since, asked, *at)
                })
        });
        match settled {
            Ok(0) => {}
            Ok(count) => {
                let line = Line::new("locks-settled").field("COUNT", count);
                self.log.log(Level::Info, &line);
            }
            Err(error) => {
                let line = Line::new("locks-settled").field("ERROR", error);
                self.log.log(Level::Warning, &line);
            }
        }
    }
}

/// Begins to ask agents what they run for this dispatcher. The hook's action is `running`.
///
/// # Errors
/// Unknown agents, or certificates that do not do.
pub fn start(
    dispatcher: &Dispatcher,
    inquiry: &Inquiry,
    _permit: &Permit,
    limits: Limits,
) -> Result<RunningOn, AppError> {
    let targets = address::resolve(&dispatcher.agents(), &inquiry.words, inquiry.port)?;
    of_targets(dispatcher, targets, limits)
}

/// Begins to ask on the dispatcher's own behalf.
///
/// # Errors
/// Certificates that do not do.
pub(super) fn of_targets(
    dispatcher: &Dispatcher,
    targets: Vec<Target>,
    limits: Limits,
) -> Result<RunningOn, AppError> {
    let identities = dispatcher.identities(limits.resumption)?;
    let plan = dispatcher.plan(&limits, targets.len())?;
    let locks = dispatcher.locks().list().unwrap_or_default();
    let left = locks
        .into_iter()
        .filter(|lock| !lock.live)
        .filter_map(|lock| lock.note.map(|note| (note.host, note.reqid)))
        .collect();
    let calls = targets
        .into_iter()
        .map(|target| {
            let identity = identities.of(&target);
            runs_call(target, identity)
        })
        .collect();
    let judge = |call: &Call, answer: Answer| (running_result(call, answer), ());
    Ok(RunningOn {
        fanout: Fanout::start(dispatcher.engine(), calls, plan, limits.notify, judge),
        log: Arc::clone(&dispatcher.log),
        warnings: identities.warning.into_iter().collect(),
        locks: dispatcher.locks(),
        left,
        asked: Utc::now().0,
        told: Some(HashMap::new()),
    })
}

impl Task for RunningOn {
    type Reply = Running;

    fn next(&mut self, timeout: Duration) -> Option<Event<Running>> {
        let event = match self.fanout.next(timeout)? {
            Step::Begun(name) => Event::Begun(name),
            Step::Output(host, piece) => Event::Output { host, piece },
            Step::Ended(_, result, ()) => {
                if let Some(told) = &mut self.told {
                    let reply = (result.reply.clone(), Utc::now().0);
                    told.insert(result.host.clone(), reply);
                }
                let line = Line::new("runs")
                    .field("AGENT", &result.host)
                    .field("TARGET", &result.target)
                    .field("RTT", result.rtt_text());
                let count = result.reply.runs.as_ref().map_or(0, Vec::len);
                match result.error() {
                    None => self.log.log(Level::Info, &line.field("RUNS", count)),
                    Some(error) => self.log.log(Level::Err, &line.field("ERROR", error)),
                }
                Event::Ended(Box::new(result))
            }
        };
        if self.fanout.left() == 0 {
            self.settle();
        }
        Some(event)
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

/// The question.
fn runs_call(target: Target, identity: Identity) -> Call {
    Call::get(target, identity, "/runs")
}

/// Its result. An agent of release 0.12.3 has no such page; what it runs is not known then.
pub fn running_result(call: &Call, answer: Answer) -> HostResult<Running> {
    let rtt = answer.rtt;
    let response = match answer.result {
        Ok(response) => response,
        Err(error) => return failed(call, rtt, Failure::transport(&error)),
    };
    if response.status == 404 {
        let failure = Failure::refused(
            "cannot tell what it runs: it is of release 0.12.3, or does not know this question",
        );
        let mut result: HostResult<Running> = failed(call, rtt, failure);
        result.reply.code = Some(UNSUPPORTED.to_owned());
        return result;
    }
    if !is_success(&response) {
        return failed(call, rtt, Failure::status(&response));
    }
    let body = Members::parse(&response.body, &Bounds::RECORD).ok();
    match body.filter(|body| body.get("runs").is_some_and(Raw::is_array)) {
        Some(body) => answered(call, rtt, body, |_, _| Outcome::Ok),
        None => failed(call, rtt, Failure::answer("invalid answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_of, call};
    use super::*;

    #[test]
    fn answers() {
        let line = |status, body: &str| running_result(&call(), answer_of(status, body)).to_json();
        assert_eq!(
            line(
                200,
                r#"{"status":"ok","host":"vm","runs":[{"reqid":"r1","script":"s","seconds":14,"async":false}]}"#
            ),
            r#"{"host":"vm","outcome":"ok","rtt":"5ms","runs":[{"async":false,"reqid":"r1","script":"s","seconds":14}]}"#
        );
        let old = line(404, r#"{"error":"not found"}"#);
        assert!(old.contains(r#""code":"unsupported""#), "{old}");
        assert!(old.contains(r#""outcome":"refused""#), "{old}");
        for nonsense in ["x", "{}", r#"{"runs":{}}"#] {
            let told = line(200, nonsense);
            assert!(told.contains(r#""outcome":"unreached""#), "{told}");
        }
        let refused = line(403, r#"{"error":"serial mismatch"}"#);
        assert!(refused.contains("forbidden: serial mismatch"), "{refused}");
    }
}
