//! `run` (dispatcher.md §3.1, §9.1).

use super::auth::Permit;
use super::dispatcher::{Dispatcher, Limits, new_reqid};
use super::fanout::{Event, Failure, Fanout, Step, Task, answered, failed, is_success};
use super::log::Log;
use crate::fleet::address;
use crate::fleet::{Answer, Call, Control, Identity, Target};
use crate::model::json;
use crate::model::{
    AppError, EntryState, HostEntry, HostResult, Mode, Origin, Outcome, RunEnd, RunRecord,
    Submission, Submitted,
};
use crate::store::files::registry::{EXECUTOR, Registry};
use crate::store::locks::{Held, LockError};
use crate::store::runs::{RunStoreError, Runs};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RunRequest;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While a run goes on, its record is written at most so often, and takes at most a twentieth of
/// the time.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// What is to be run, where and for whom.
#[derive(Clone, Debug, Default)]
pub struct RunOrder {
    /// Host words, as [`Dispatcher::select`] gives them.
    pub words: Vec<String>,
    /// Port in place of the default one.
    pub port: Option<u16>,
    /// The script.
    pub script: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Who asks; advisory.
    pub username: String,
    /// Token for hooks and scripts.
    pub token: String,
    /// Address the order came from.
    pub source_ip: String,
    /// Who gave it, for the record.
    pub by: Origin,
}

impl RunOrder {
    /// The question to the auth hook about this order.
    pub fn hook_request(&self) -> HookRequest {
        HookRequest {
            action: "run",
            script: self.script.clone(),
            hosts: self.words.clone(),
            args: self.args.clone(),
            username: self.username.clone(),
            token: self.token.clone(),
            source_ip: self.source_ip.clone(),
            timestamp: Utc::now().iso(),
            ..HookRequest::default()
        }
    }
}

/// A run that waits for the ends of its scripts.
#[derive(Debug)]
pub struct Run {
    common: Common<RunEnd>,
}

/// A run whose scripts go on by themselves.
#[derive(Debug)]
pub struct AsyncRun {
    common: Common<Submission>,
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
        let mut result = run_result(call, &script, &reqid, answer);
        let shown = executor_shown_by_output(call, &mut result.reply);
        (result, shown)
    };
    Ok(Run {
        common: Common::start(dispatcher, ready, mode, limits, judge)?,
    })
}

/// Begins a run whose scripts are only submitted.
///
/// # Errors
/// As [`start`].
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
        let result = async_result(call, &script, &reqid, answer);
        let shown = executor_shown_by_submission(call, &result);
        (result, shown)
    };
    Ok(AsyncRun {
        common: Common::start(dispatcher, ready, mode, limits, judge)?,
    })
}

/// A run that has its locks and targets.
struct Ready {
    words: Vec<String>,
    targets: Vec<Target>,
    request: RunRequest,
    by: Origin,
    held: Held,
}

fn prepare(dispatcher: &Dispatcher, order: RunOrder, run_async: bool) -> Result<Ready, AppError> {
    let held = match dispatcher.locks().acquire(&order.words, &order.script) {
        Ok(held) => held,
        Err(error) => {
            if let LockError::Held(pairs) = &error {
                let line = Line::new("lock-conflict").field("LOCKS", pairs.join(","));
                dispatcher.log.log(Level::Warning, &line);
            }
            return Err(error.into());
        }
    };
    let targets = address::resolve(&dispatcher.agents(), &order.words, order.port)?;
    Ok(Ready {
        targets,
        request: RunRequest {
            script: order.script,
            args: order.args,
            reqid: new_reqid()?,
            username: order.username,
            token: order.token,
            run_async,
            ..RunRequest::default()
        },
        words: order.words,
        by: order.by,
        held,
    })
}

/// What both kinds of run have.
#[derive(Debug)]
struct Common<T> {
    record: RunRecord,
    store: Arc<dyn Runs>,
    fanout: Fanout<T, Option<bool>>,
    agents: Registry,
    /// Agents of the reference that have shown whether they have an executor.
    executors: HashMap<String, bool>,
    /// Until the last host has ended.
    held: Option<Held>,
    log: Arc<Log>,
    warnings: Vec<String>,
    written: Instant,
    write_took: Duration,
    unwritten: bool,
}

impl<T: crate::model::Reply + Send + 'static> Common<T> {
    fn start(
        dispatcher: &Dispatcher,
        ready: Ready,
        mode: Mode,
        limits: Limits,
        judge: impl Fn(&Call, Answer) -> (HostResult<T>, Option<bool>) + Send + Sync + 'static,
    ) -> Result<Self, AppError> {
        let identities = dispatcher.identities(limits.resumption)?;
        let plan = dispatcher.plan(&limits, ready.targets.len())?;
        let request = &ready.request;
        let mut record = RunRecord::new(&request.reqid, &request.script, mode, Utc::now().0);
        record.note_order(&request.args, &ready.by);
        let store = dispatcher.runs();
        let mut warnings: Vec<String> = identities.warning.iter().cloned().collect();
        let log = Arc::clone(&dispatcher.log);
        let begun = Instant::now();
        if let Err(error) = store.save(&record) {
            log_store_failure(&log, &record.reqid, &error);
            if request.run_async {
                warnings.push(format!(
                    "no record of this run could be written ({error}); status and wait will not \
                     know it."
                ));
            }
        }
        let line = Line::new("dispatch")
            .field("SCRIPT", &request.script)
            .field("HOSTS", ready.words.join(","))
            .field("REQID", &request.reqid)
            .field("MODE", if request.run_async { "async" } else { "sync" });
        log.log(Level::Info, &line);
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
            executors: HashMap::new(),
            held: Some(ready.held),
            log,
            warnings,
            written: Instant::now(),
            write_took: begun.elapsed(),
            unwritten: false,
        })
    }

    fn next(
        &mut self,
        timeout: Duration,
        note: impl FnOnce(&mut RunRecord, &HostResult<T>),
        log: impl FnOnce(&HostResult<T>, Line) -> (Level, Line),
    ) -> Option<Event<T>> {
        let step = self.fanout.next(timeout);
        let event = step.map(|step| match step {
            Step::Begun(name) => Event::Begun(name),
            Step::Ended(index, result, shown) => {
                let target = &self.fanout.call(index).target;
                if let Some(executor) = shown.filter(|_| shown != target.executor) {
                    self.executors.insert(target.name.clone(), executor);
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
        self.note_executors();
    }

    /// Keeps what agents have shown, so that the next run's arguments fit them.
    fn note_executors(&self) {
        let names: Vec<&String> = self.executors.keys().collect();
        if names.is_empty() {
            return;
        }
        let updated = self.agents.update_many(&names, |record| {
            let word = match self.executors.get(record.name()) {
                Some(true) => "yes",
                Some(false) => "no",
                None => return false,
            };
            record.set(EXECUTOR, word);
            true
        });
        // Whoever may not write the registry can still run.
        if let Err(error) = updated {
            let line = Line::new("registry-fail").field("ERROR", error);
            self.log.log(Level::Warning, &line);
        }
    }

    fn write(&mut self) {
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

fn log_store_failure(log: &Log, reqid: &str, error: &RunStoreError) {
    let line = Line::new("run-store-fail")
        .field("REQID", reqid)
        .field("ERROR", error);
    log.log(Level::Warning, &line);
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

/// The body of a run, made once for the whole fleet.
#[derive(Clone, Debug)]
struct RunBody {
    body: Arc<str>,
    perl: Arc<str>,
}

impl RunBody {
    /// Renders a request. Agents of the reference hand each character of an argument to the script
    /// as one byte and die of one above U+00FF, so what they get is text whose characters are the
    /// bytes meant (dispatcher.md §8).
    fn new(request: &RunRequest) -> Self {
        let bytes = |text: &String| text.bytes().map(char::from).collect::<String>();
        let perl = RunRequest {
            args: request.args.iter().map(bytes).collect(),
            username: bytes(&request.username),
            token: bytes(&request.token),
            ..request.clone()
        };
        Self {
            body: request.render().into(),
            perl: perl.render().into(),
        }
    }
}

fn run_call(target: Target, identity: Identity, body: &RunBody) -> Call {
    // In direct mode its scripts get characters; with an executor, and where nothing has shown
    // which, bytes.
    let bytes = target.perl && target.executor != Some(false);
    let body = if bytes { &body.perl } else { &body.body };
    Call::post(target, identity, "/run", Arc::clone(body))
}

/// What the output of an agent of 0.12.3 shows of its mode: with an executor, characters stand for
/// bytes, and are taken for them. Plain ASCII shows nothing.
fn executor_shown_by_output(call: &Call, reply: &mut RunEnd) -> Option<bool> {
    if !call.target.perl {
        return None;
    }
    if reply.unmap_output() {
        return Some(true);
    }
    let outputs = [&reply.stdout, &reply.stderr];
    let wide = |text: &String| text.chars().any(|c| c > '\u{ff}');
    outputs.into_iter().flatten().any(wide).then_some(false)
}

/// What its answer to a submission shows: it takes none where it has an executor.
fn executor_shown_by_submission(call: &Call, result: &HostResult<Submission>) -> Option<bool> {
    if !call.target.perl {
        return None;
    }
    match result.reply.submitted {
        Submitted::Accepted => Some(false),
        Submitted::Busy => None,
        Submitted::No => {
            let error = result.error().unwrap_or_default();
            error
                .starts_with("async runs are not yet supported with the executor")
                .then_some(true)
        }
    }
}

/// The result of a sync run.
pub fn run_result(call: &Call, script: &str, reqid: &str, answer: Answer) -> HostResult<RunEnd> {
    let rtt = answer.rtt;
    let mut result = match answer.result {
        Ok(response) if is_success(&response) => match json::parse_object(&response.body) {
            Some(body) => answered(call, rtt, body, outcome),
            None => {
                let mut result: HostResult<RunEnd> =
                    failed(call, rtt, Failure::answer("invalid JSON response"));
                result.reply.exit = Some(-1);
                result
            }
        },
        other => {
            let failure = match &other {
                Ok(response) => Failure::status(response),
                Err(error) => Failure::of_run(error),
            };
            let mut result: HostResult<RunEnd> = failed(call, rtt, failure);
            result.reply.exit = Some(-1);
            result.reply.script = Some(script.to_owned());
            result
        }
    };
    // Ours, whatever the agent says: it is the key of records and logs.
    result.reply.reqid = Some(reqid.to_owned());
    result
}

/// The result of an async submission. One without `status` is the agent's refusal.
pub fn async_result(
    call: &Call,
    script: &str,
    reqid: &str,
    answer: Answer,
) -> HostResult<Submission> {
    let rtt = answer.rtt;
    let without_answer = |failure: Failure, status: &str, submitted| {
        let mut result: HostResult<Submission> = failed(call, rtt, failure);
        result.reply.status = Some(status.to_owned());
        result.reply.submitted = submitted;
        result.reply.script = Some(script.to_owned());
        result
    };
    let mut result = match &answer.result {
        Ok(response) if is_success(response) => match json::parse_object(&response.body) {
            Some(body) => answered(call, rtt, body, |reply: &Submission, _| {
                match reply.submitted {
                    Submitted::Accepted => Outcome::Ok,
                    Submitted::Busy | Submitted::No => Outcome::Refused,
                }
            }),
            None => {
                let failure = Failure::answer("invalid JSON response");
                let mut result = without_answer(failure, "error", Submitted::No);
                result.reply.script = None;
                result
            }
        },
        Ok(response) if response.status == 409 => {
            let error = json::parse_object(&response.body)
                .and_then(|body| json::text(&body, "error").map(std::borrow::Cow::into_owned))
                .unwrap_or_else(|| "script already running".to_owned());
            without_answer(Failure::refused(error), "busy", Submitted::Busy)
        }
        Ok(response) => without_answer(Failure::status(response), "error", Submitted::No),
        Err(error) => without_answer(Failure::of_run(error), "error", Submitted::No),
    };
    result.reply.reqid = Some(reqid.to_owned());
    result
}

/// The record's entry of an async result (dispatcher.md §12.2).
///
/// A submission whose end is not known may have been accepted: it is stored as accepted, and
/// asking for its result will tell.
fn entry(result: &HostResult<Submission>) -> HostEntry {
    match (result.reply.submitted, result.outcome) {
        (Submitted::Accepted, _) => HostEntry::new(EntryState::Accepted),
        (_, Outcome::Unknown) => HostEntry {
            fetch_error: Some("submission interrupted".to_owned()),
            ..HostEntry::new(EntryState::Accepted)
        },
        (submitted, _) => {
            let state = match submitted {
                Submitted::Busy => EntryState::Busy,
                _ => EntryState::Error,
            };
            HostEntry {
                error: Some(result.error().unwrap_or_default().to_owned()),
                ..HostEntry::new(state)
            }
        }
    }
}

/// `exit` -1 with an `error` is how agents refuse with status 200.
fn outcome(end: &RunEnd, has_error: bool) -> Outcome {
    match end.exit {
        Some(0) => Outcome::Ok,
        Some(-1) | None if has_error => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_failed, answer_of, call};
    use super::*;
    use crate::fleet::Fault;
    use std::time::Duration;

    fn run(answer: Answer) -> String {
        run_result(&call(), "s", "id", answer).to_json()
    }

    #[test]
    fn answers_of_agents() {
        for (status, body, expected) in [
            (
                200,
                r#"{"script":"s","exit":0,"stdout":"o","stderr":"","reqid":"r","host":"vm.x"}"#,
                r#"{"exit":0,"host":"vm","outcome":"ok","reported_hostname":"vm.x","reqid":"id","rtt":"5ms","script":"s","stderr":"","stdout":"o"}"#,
            ),
            (
                200,
                r#"{"exit":3,"new":[1]}"#,
                r#"{"exit":3,"host":"vm","new":[1],"outcome":"failed","reqid":"id","rtt":"5ms"}"#,
            ),
            (
                200,
                r#"{"exit":-1,"error":"script not permitted"}"#,
                r#"{"error":"script not permitted","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms"}"#,
            ),
            (
                200,
                r#"{"exit":-1,"stderr":"executor unreachable"}"#,
                r#"{"exit":-1,"host":"vm","outcome":"failed","reqid":"id","rtt":"5ms","stderr":"executor unreachable"}"#,
            ),
            (
                200,
                "<html>",
                r#"{"error":"invalid JSON response","exit":-1,"host":"vm","outcome":"unreached","phase":"http","reqid":"id","rtt":"5ms"}"#,
            ),
            (
                403,
                r#"{"error":"serial mismatch"}"#,
                r#"{"error":"forbidden: serial mismatch","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
            (
                403,
                "no",
                r#"{"error":"forbidden: 403 Forbidden","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
            (
                413,
                "",
                r#"{"error":"request too large","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
            (
                404,
                "{}",
                r#"{"error":"404 Not Found","exit":-1,"host":"vm","outcome":"unreached","phase":"http","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
        ] {
            assert_eq!(run(answer_of(status, body)), expected);
        }
        let slow = || Fault::ReadTimeout(Duration::from_secs(7));
        let sent = run(answer_failed(slow(), true));
        assert!(sent.contains("read timeout after 7s"), "{sent}");
        assert!(sent.contains(r#""outcome":"unknown""#), "{sent}");
        let unsent = run(answer_failed(slow(), false));
        assert!(unsent.contains(r#""outcome":"unreached""#), "{unsent}");
        let never = run(answer_failed(Fault::NotStarted, false));
        assert!(never.contains(r#""outcome":"skipped""#), "{never}");
    }

    #[test]
    fn deaths_are_told() {
        let body = r#"{"exit":126,"signal":9,"oom":true,"time_limit":false,"code":"x"}"#;
        let result = run_result(&call(), "s", "id", answer_of(200, body));
        assert_eq!((result.reply.signal, result.reply.oom), (Some(9), true));
        assert_eq!(result.reply.death().unwrap(), "killed for want of memory");
        let line = result.to_json();
        assert!(line.contains(r#""oom":true"#), "{line}");
        assert!(line.contains(r#""signal":9"#), "{line}");
    }

    #[test]
    fn async_answers_and_their_entries() {
        let cases = [
            (
                answer_of(202, r#"{"status":"accepted","reqid":"r"}"#),
                r#"{"status":"accepted"}"#,
            ),
            (
                answer_of(409, r#"{"error":"script already running","status":"busy"}"#),
                r#"{"error":"script already running","status":"busy"}"#,
            ),
            (
                answer_of(409, ""),
                r#"{"error":"script already running","status":"busy"}"#,
            ),
            (
                answer_of(200, r#"{"exit":-1,"error":"not with the executor"}"#),
                r#"{"error":"not with the executor","status":"error"}"#,
            ),
            (
                answer_of(200, "x"),
                r#"{"error":"invalid JSON response","status":"error"}"#,
            ),
            (
                answer_of(503, ""),
                r#"{"error":"503 Service Unavailable","status":"error"}"#,
            ),
        ];
        for (answer, expected) in cases {
            let result = async_result(&call(), "s", "id", answer);
            assert_eq!(json::line(&entry(&result).object()), expected);
        }
        let cut = async_result(&call(), "s", "id", answer_failed(Fault::Interrupted, true));
        assert_eq!(entry(&cut).state, EntryState::Accepted);
        let cut = async_result(&call(), "s", "id", answer_failed(Fault::Interrupted, false));
        assert_eq!(entry(&cut).state, EntryState::Error);
    }
}
