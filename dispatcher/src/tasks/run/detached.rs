//! A run whose scripts go on by themselves.

use super::super::auth::Permit;
use super::super::dispatcher::{Dispatcher, Limits};
use super::super::fanout::{Event, Task};
use super::answer::{async_result, entry};
use super::call::{Shown, executor_shown_by_submission};
use super::common::Common;
use super::order::{RunOrder, prepare};
use crate::fleet::{Answer, Call, Control};
use crate::model::{AppError, EntryState, HostEntry, Mode, RunRecord, Submission, Submitted};
use ctrl_exec_host::syslog::Level;
use std::collections::BTreeMap;
use std::time::Duration;

/// A run whose scripts go on by themselves.
#[derive(Debug)]
pub struct AsyncRun {
    common: Common<Submission>,
}

/// Begins a run whose scripts are only submitted.
///
/// # Errors
/// As [`start`](super::start).
pub fn submit(
    dispatcher: &Dispatcher,
    order: RunOrder,
    _permit: &Permit,
    limits: Limits,
) -> Result<AsyncRun, AppError> {
    let ready = prepare(dispatcher, order, true)?;
    // A submission that is cut off may have been accepted: asking for its result will tell.
    let entry = HostEntry {
        fetch_error: Some("not submitted yet".to_owned()),
        ..HostEntry::new(EntryState::Accepted)
    };
    let entries = ready
        .targets
        .iter()
        .map(|target| (target.name.clone(), entry.clone()))
        .collect::<BTreeMap<_, _>>();
    let mode = Mode::Async { entries };
    let (script, reqid) = (ready.request.script.clone(), ready.request.reqid.clone());
    let judge = move |call: &Call, answer: Answer| {
        let perl = answer.shows_perl(call);
        let result = async_result(call, &script, &reqid, answer);
        let shown = Shown::of(call, perl, || executor_shown_by_submission(&result));
        (result, shown)
    };
    Ok(AsyncRun {
        common: Common::start(dispatcher, ready, mode, limits, judge)?,
    })
}

impl AsyncRun {
    /// The request id, under which the record is.
    pub fn reqid(&self) -> &str {
        &self.common.record.reqid
    }

    /// What is recorded so far.
    pub fn record(&self) -> &RunRecord {
        &self.common.record
    }
}

impl Task for AsyncRun {
    type Reply = Submission;

    fn next(&mut self, timeout: Duration) -> Option<Event<Submission>> {
        self.common.next(
            timeout,
            |record, result| {
                if let Mode::Async { entries } = &mut record.mode {
                    // Of a name given twice the last one counts.
                    entries.insert(result.host.clone(), entry(result));
                }
            },
            |result, line| {
                let line = match &result.reply.status {
                    Some(status) => line.field("STATUS", status),
                    None => line,
                };
                let busy = result.reply.submitted == Submitted::Busy;
                match result.error() {
                    Some(error) if busy => (Level::Warning, line.field("ERROR", error)),
                    Some(error) => (Level::Err, line.field("ERROR", error)),
                    None => (Level::Info, line),
                }
            },
        )
    }

    fn left(&self) -> usize {
        self.common.fanout.left()
    }

    fn total(&self) -> usize {
        self.common.fanout.calls().len()
    }

    fn control(&self) -> Control {
        self.common.fanout.control()
    }

    fn warnings(&self) -> &[String] {
        &self.common.warnings
    }
}
