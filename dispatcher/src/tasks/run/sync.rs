//! A run that waits for the ends of its scripts.

use super::super::auth::Permit;
use super::super::dispatcher::{Dispatcher, Limits};
use super::super::fanout::{Event, Task};
use super::answer::run_result;
use super::call::{Shown, executor_shown_by_output};
use super::common::Common;
use super::order::{RunOrder, prepare};
use crate::fleet::{Answer, Call, Control};
use crate::model::{AppError, Mode, RunEnd, RunRecord};
use ctrl_exec_host::syslog::Level;
use std::time::Duration;

/// A run that waits for the ends of its scripts.
#[derive(Debug)]
pub struct Run {
    common: Common<RunEnd>,
}

/// Begins a run: takes the locks, writes the record, sends. The request id is known, and its
/// record can be read, before anything is sent.
///
/// # Errors
/// Held locks, unknown agents, certificates that do not do. Nothing was sent then. A record that
/// cannot be written is a warning of the task: who may not write records may run all the same.
pub fn start(
    dispatcher: &Dispatcher,
    order: RunOrder,
    _permit: &Permit,
    limits: Limits,
) -> Result<Run, AppError> {
    let ready = prepare(dispatcher, order, false)?;
    let mode = Mode::Sync {
        words: ready.words.clone(),
        results: Vec::new(),
    };
    let (script, reqid) = (ready.request.script.clone(), ready.request.reqid.clone());
    let judge = move |call: &Call, answer: Answer| {
        let perl = answer.shows_perl(call);
        let mut result = run_result(call, &script, &reqid, answer);
        let shown = Shown::of(call, perl, || executor_shown_by_output(&mut result.reply));
        (result, shown)
    };
    Ok(Run {
        common: Common::start(dispatcher, ready, mode, limits, judge)?,
    })
}

impl Run {
    /// The request id, under which the record is.
    pub fn reqid(&self) -> &str {
        &self.common.record.reqid
    }

    /// What is recorded so far.
    pub fn record(&self) -> &RunRecord {
        &self.common.record
    }
}

impl Task for Run {
    type Reply = RunEnd;

    fn next(&mut self, timeout: Duration) -> Option<Event<RunEnd>> {
        self.common.next(
            timeout,
            |record, result| record.add(result.clone()),
            |result, line| {
                let line = match result.reply.exit {
                    Some(exit) => line.field("EXIT", exit),
                    None => line,
                };
                match result.error() {
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
