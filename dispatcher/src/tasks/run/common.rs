//! What both kinds of run have: the calls under way, the record that is kept of them, the locks.

use super::super::dispatcher::{Dispatcher, Limits};
use super::super::fanout::{Event, Fanout, Step};
use super::super::log::Log;
use super::call::{RunBody, Shown, run_call};
use super::order::Ready;
use crate::fleet::{Answer, Call, Target};
use crate::model::{
    AppError, HostResult, LockNote, Mode, Origin, Outcome, RunRecord, SOME_PERL_VERSION,
};
use crate::store::files::registry::Registry;
use crate::store::locks::Held;
use crate::store::runs::{RunStoreError, Runs};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RunRequest;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While a run goes on, its record is written at most so often, and takes at most a twentieth of
/// the time.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// What both kinds of run have.
#[derive(Debug)]
pub(super) struct Common<T> {
    pub(super) record: RunRecord,
    pub(super) store: Arc<dyn Runs>,
    pub(super) fanout: Fanout<T, Shown>,
    pub(super) agents: Registry,
    /// What agents have shown of themselves.
    pub(super) shown: HashMap<String, Shown>,
    /// Until the last host has ended.
    pub(super) held: Option<Held>,
    /// Host words, in the order of the calls.
    pub(super) words: Vec<String>,
    pub(super) log: Arc<Log>,
    pub(super) warnings: Vec<String>,
    pub(super) written: Instant,
    pub(super) write_took: Duration,
    pub(super) unwritten: bool,
}

impl<T: crate::model::Reply + Send + 'static> Common<T> {
    pub(super) fn start(
        dispatcher: &Dispatcher,
        ready: Ready,
        mode: Mode,
        limits: Limits,
        judge: impl Fn(&Call, Answer) -> (HostResult<T>, Shown) + Send + Sync + 'static,
    ) -> Result<Self, AppError> {
        let identities = dispatcher.identities(limits.resumption)?;
        let plan = dispatcher.plan(&limits, ready.targets.len())?;
        let request = &ready.request;
        let mut record = RunRecord::new(&request.reqid, &request.script, mode, Utc::now().0);
        record.note_order(&request.args, &ready.by);
        if let Some(submitter) = &ready.submitter {
            record.note_submitter(submitter);
        }
        let store = dispatcher.runs();
        let mut warnings: Vec<String> = identities.warning.iter().cloned().collect();
        if request.stream {
            warnings.extend(who_tells_late(&ready.targets));
        }
        let log = Arc::clone(&dispatcher.log);
        let begun = Instant::now();
        if let Err(error) = store.save(&record) {
            log_store_failure(&log, &record.reqid, &error);
            let denied = matches!(&error, RunStoreError::Io(_, error)
                if error.kind() == std::io::ErrorKind::PermissionDenied);
            if !denied {
                return Err(AppError::system(format!(
                    "nothing was sent: the record of this run cannot be written ({error})"
                )));
            }
            // Whoever may not write records may run all the same.
            warnings.push(format!(
                "no record of this run could be written ({error}); status, wait, runs and \
                 --failed-of will not know it."
            ));
        }
        let line = Line::new("dispatch")
            .field("SCRIPT", &request.script)
            .field("HOSTS", ready.words.join(","))
            .field("REQID", &request.reqid)
            .field("MODE", if request.run_async { "async" } else { "sync" });
        log.log(Level::Info, &line);
        let mut held = ready.held;
        for (word, target) in ready.words.iter().zip(&ready.targets) {
            held.note(word, &lock_note(request, &ready.by, target, record.created));
        }
        let body = RunBody::new(request);
        let calls = ready
            .targets
            .into_iter()
            .map(|target| {
                let identity = identities.of(&target);
                run_call(target, identity, &body)
            })
            .collect();
        let fanout = Fanout::start(dispatcher.engine(), calls, plan, limits.notify, judge);
        Ok(Self {
            record,
            store,
            fanout,
            agents: dispatcher.agents(),
            shown: HashMap::new(),
            held: Some(held),
            words: ready.words,
            log,
            warnings,
            written: Instant::now(),
            write_took: begun.elapsed(),
            unwritten: false,
        })
    }

    pub(super) fn next(
        &mut self,
        timeout: Duration,
        note: impl FnOnce(&mut RunRecord, &HostResult<T>),
        log: impl FnOnce(&HostResult<T>, Line) -> (Level, Line),
    ) -> Option<Event<T>> {
        let step = self.fanout.next(timeout);
        let event = step.map(|step| match step {
            Step::Begun(name) => Event::Begun(name),
            Step::Output(host, piece) => Event::Output { host, piece },
            Step::Ended(index, result, shown) => {
                let target = &self.fanout.call(index).target;
                if shown.perl || shown.executor.is_some() {
                    self.shown.insert(target.name.clone(), shown);
                }
                if result.outcome != Outcome::Unknown {
                    if let (Some(held), Some(word)) = (&mut self.held, self.words.get(index)) {
                        held.over(word);
                    }
                }
                note(&mut self.record, &result);
                self.unwritten = true;
                let line = Line::new(match self.record.mode {
                    Mode::Async { .. } => "run-async",
                    Mode::Sync { .. } => "run",
                });
                let line = line
                    .field("SCRIPT", &self.record.script)
                    .field("TARGET", &result.target)
                    .field("RTT", result.rtt_text())
                    .field("REQID", &self.record.reqid);
                let (level, line) = log(&result, line);
                self.log.log(level, &line);
                Event::Ended(Box::new(result))
            }
        });
        if self.fanout.left() == 0 {
            self.close();
        } else if self.unwritten
            && self.written.elapsed() > WRITE_EVERY.max(self.write_took.saturating_mul(20))
        {
            self.write();
        }
        event
    }

    fn close(&mut self) {
        if self.held.is_none() {
            return;
        }
        if matches!(self.record.mode, Mode::Sync { .. }) {
            self.record.completed = Some(Utc::now().0);
            self.record.complete = true;
        }
        self.write();
        self.held = None;
        self.note_shown();
    }

    /// Keeps what agents have shown, so that the next run's arguments fit them.
    fn note_shown(&self) {
        let names: Vec<&String> = self.shown.keys().collect();
        if names.is_empty() {
            return;
        }
        let updated = self.agents.update_many(&names, |record| {
            let Some(shown) = self.shown.get(record.name()) else {
                return false;
            };
            if shown.perl && !record.is_perl() {
                record.agent_version = Some(SOME_PERL_VERSION.to_owned());
            }
            record.executor = shown.executor.or(record.executor);
            true
        });
        // Whoever may not write the registry can still run.
        if let Err(error) = updated {
            let line = Line::new("registry-fail").field("ERROR", error);
            self.log.log(Level::Warning, &line);
        }
    }

    pub(super) fn write(&mut self) {
        let begun = Instant::now();
        self.record.recompute();
        if let Err(error) = self.store.save(&self.record) {
            log_store_failure(&self.log, &self.record.reqid, &error);
        }
        self.written = Instant::now();
        self.write_took = begun.elapsed();
        self.unwritten = false;
    }
}

impl<T> Drop for Common<T> {
    fn drop(&mut self) {
        // What is known when its owner goes away is not lost.
        if self.unwritten {
            let _ = self.store.save(&self.record);
        }
    }
}

/// The words about agents that are known to tell of output only at the end.
fn who_tells_late(targets: &[Target]) -> Option<String> {
    const SHOWN: usize = 10;
    let late = targets.iter().filter(|target| target.perl);
    let mut names: Vec<&str> = late.map(|target| target.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.truncate(SHOWN);
    Some(format!(
        "agents of release 0.12.3 tell of output only at the end: {}{more}",
        names.join(", ")
    ))
}

/// How long after its time limit a run may still be taken for going on: it gets TERM then, KILL
/// five seconds later, and may have waited for a hook before.
const AFTER_LIMIT: i64 = 60;
/// How long a run may be taken for going on whose agent cannot tell.
const UNTOLD: i64 = 3_600;

/// What the lock of a host says of a run while its end there is not known.
fn lock_note(request: &RunRequest, by: &Origin, target: &Target, created: Option<i64>) -> LockNote {
    let since = created.unwrap_or_default();
    let limit = request
        .time_limit
        .map(|limit| i64::from(limit) + AFTER_LIMIT);
    let untold = (target.can("runs") == Some(false)).then_some(UNTOLD);
    LockNote {
        reqid: request.reqid.clone(),
        host: target.name.clone(),
        since,
        until: limit.or(untold).map(|after| since + after),
        user: by.name().unwrap_or_default().to_owned(),
    }
}

fn log_store_failure(log: &Log, reqid: &str, error: &RunStoreError) {
    let line = Line::new("run-store-fail")
        .field("REQID", reqid)
        .field("ERROR", error);
    log.log(Level::Warning, &line);
}
