//! Async runs: processes that outlive the agent (agent.md §5.2).
//!
//! The agent starts *itself* as `__job` with the run on standard input. That process takes the
//! script's lock, writes the `running` record, starts `__job-run` in a session of its own and
//! ends; its exit code is the agent's answer. `__job-run` holds the lock (as its standard output),
//! runs the script, directly or through the executor, and writes the result. An agent that is
//! stopped, upgraded or killed meanwhile changes nothing, and a record whose lock nobody holds is
//! a run that was lost ([`Store::settle`](crate::runs::store::Store::settle)).

use crate::runs::execute::{self, RunLimits};
use crate::runs::outcome::Outcome;
use crate::runs::run::Run;
use crate::runs::store::{Limits, Store};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_host::{Root, stderr};
use ctrl_exec_protocol::frame::ResponseDecoder;
use ctrl_exec_protocol::json::{self, Bounds, Object};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RunRequest;
use ctrl_exec_reactor::{Config, Event, Reactor};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// First argument of the process that starts a run.
pub const START: &str = "__job";
/// First argument of the process that supervises a run.
pub const SUPERVISE: &str = "__job-run";
/// Exit code of [`START`]: the script is already running.
pub const EXIT_BUSY: u8 = 1;
/// Exit code of [`START`]: it failed; standard error says why.
pub const EXIT_FAILED: u8 = 2;

/// The largest job text: arguments and standard input, each at most a request body, escaped.
const MAX_JOB: u64 = 16 * 1024 * 1024;
const JOB_BOUNDS: Bounds = Bounds {
    max_nodes: 8192,
    max_depth: 4,
};

/// Everything the supervisor needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisedRun {
    /// The run.
    pub run: Run,
    /// What its script reads.
    pub stdin: String,
    /// When it was accepted.
    pub started: String,
    /// Where its record goes.
    pub runs_dir: String,
    /// Socket of the executor, in executor mode.
    pub executor: Option<String>,
    /// Limits of the run.
    pub limits: RunLimits,
    /// Limits of the store.
    pub store: Limits,
}

impl SupervisedRun {
    /// The job as text for the process that starts it.
    pub fn render(&self) -> String {
        let request = &self.run.request;
        json::object()
            .str("script", &request.script)
            .strings("args", &request.args)
            .str("reqid", &request.reqid)
            .str("path", &self.run.path)
            .str("dispatcher", &self.run.dispatcher)
            .str("peer_ip", &self.run.peer_ip)
            .str("stdin", &self.stdin)
            .str("started", &self.started)
            .str("runs_dir", &self.runs_dir)
            .opt_str("executor", self.executor.as_deref())
            .int("stdin_timeout", self.limits.stdin_timeout.into())
            .int("script_timeout", self.limits.script_timeout.into())
            .int(
                "max_output",
                i64::try_from(self.limits.max_output).unwrap_or(i64::MAX),
            )
            .int("records", self.store.records.into())
            .int("bytes", i64::try_from(self.store.bytes).unwrap_or(i64::MAX))
            .finish()
    }

    /// Reads [`SupervisedRun::render`]'s text.
    fn parse(text: &[u8]) -> Option<SupervisedRun> {
        let object = json::parse_object(text, &JOB_BOUNDS).ok()?;
        let text = |key: &str| json::str_of(&object, key).map(str::to_owned);
        let args = match object.get("args")? {
            json::Value::Array(items) => json::scalar_texts(items)?,
            _ => return None,
        };
        let request = RunRequest {
            script: text("script")?,
            args,
            reqid: text("reqid")?,
            run_async: true,
            ..RunRequest::default()
        };
        Some(SupervisedRun {
            run: Run {
                request,
                path: text("path")?,
                dispatcher: text("dispatcher")?,
                peer_ip: text("peer_ip")?,
                serial: "".into(),
            },
            stdin: text("stdin")?,
            started: text("started")?,
            runs_dir: text("runs_dir")?,
            executor: text("executor"),
            limits: RunLimits {
                stdin_timeout: number(&object, "stdin_timeout")?,
                script_timeout: number(&object, "script_timeout")?,
                max_output: number(&object, "max_output")?,
            },
            store: Limits {
                records: number(&object, "records")?,
                bytes: number(&object, "bytes")?,
            },
        })
    }
}

/// The process that starts a run; the result is its exit code.
pub fn start() -> u8 {
    match try_start() {
        Ok(true) => 0,
        Ok(false) => EXIT_BUSY,
        Err(fault) => {
            stderr::write(fault.as_bytes());
            EXIT_FAILED
        }
    }
}

/// The process that supervises a run.
pub fn supervise() -> u8 {
    let Ok((job, _)) = read_job() else {
        return EXIT_FAILED;
    };
    let outcome = run(&job).unwrap_or_else(|error| Outcome {
        exit: -1,
        stderr: format!("ctrl-exec-agent: {error}\n"),
        ..Outcome::default()
    });
    let store = Store::new(&job.runs_dir);
    match store.write_done(&job.run.id(), &job.started, Utc::now(), &outcome) {
        Ok(()) => 0,
        Err(error) => {
            let line = Line::new("async-store-fail")
                .field("REQID", &job.run.request.reqid)
                .field("ERROR", error);
            Syslog::open("ctrl-exec-agent", &Root::system()).log(Level::Err, &line);
            EXIT_FAILED
        }
    }
}

/// This program, also after its file was replaced by an upgrade.
pub fn own_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() {
        link.to_owned()
    } else {
        std::env::current_exe().unwrap_or_default()
    }
}

fn try_start() -> Result<bool, String> {
    let (job, text) = read_job()?;
    let store = Store::new(&job.runs_dir);
    let id = job.run.id();
    if !store.make_room(job.store, SystemTime::now()) {
        return Err("the store of async runs is full of runs in progress".into());
    }
    let Some(lock) = store.lock(&id).map_err(|error| format!("lock: {error}"))? else {
        return Ok(false);
    };
    store
        .write_running(&id, &job.started)
        .map_err(|error| format!("record: {error}"))?;
    detach(&text, lock).map(|()| true).map_err(|error| {
        let stderr = format!("ctrl-exec-agent: could not start the run: {error}\n");
        let outcome = Outcome {
            exit: -1,
            stderr: stderr.clone(),
            ..Outcome::default()
        };
        let _ = store.write_done(&id, &job.started, Utc::now(), &outcome);
        stderr
    })
}

/// Starts the supervisor, which lives on when this process ends.
fn detach(job: &[u8], lock: File) -> io::Result<()> {
    // Fails only for the leader of a process group that is already a session of its own.
    let _ = rustix::process::setsid();
    let mut child = Command::new(own_program())
        .arg(SUPERVISE)
        .stdin(Stdio::piped())
        .stdout(lock)
        .stderr(Stdio::null())
        .spawn()?;
    match child.stdin.take() {
        Some(mut pipe) => pipe.write_all(job),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn read_job() -> Result<(SupervisedRun, Vec<u8>), String> {
    let mut text = Vec::new();
    io::stdin()
        .take(MAX_JOB)
        .read_to_end(&mut text)
        .map_err(|error| format!("reading the job: {error}"))?;
    let job = SupervisedRun::parse(&text).ok_or("reading the job: malformed")?;
    Ok((job, text))
}

fn run(job: &SupervisedRun) -> io::Result<Outcome> {
    let mut reactor = Reactor::new(Config {
        max_conns: 1,
        ..Config::default()
    })?;
    if let Some(socket) = &job.executor {
        return through_executor(&mut reactor, job, socket);
    }
    let SupervisedRun { run, limits, .. } = job;
    let child = execute::script_child(
        &run.path,
        &run.request.args,
        execute::script_environment(),
        job.stdin.clone(),
        *limits,
    );
    if let Err(error) = reactor.spawn(child) {
        return Ok(execute::spawn_failure(&run.path, &error));
    }
    loop {
        if let Some(Event::Child { result, .. }) = reactor.next(None)? {
            return Ok(execute::child_outcome(*result, *limits));
        }
    }
}

fn through_executor(
    reactor: &mut Reactor,
    job: &SupervisedRun,
    socket: &str,
) -> io::Result<Outcome> {
    let request = match execute::executor_request(&job.run, job.stdin.clone()) {
        Ok(request) => request,
        Err(stderr) => {
            return Ok(Outcome {
                exit: -1,
                stderr,
                ..Outcome::default()
            });
        }
    };
    let mut decoder = ResponseDecoder::new(job.limits.max_output);
    reactor.connect_unix(Path::new(socket), request, execute::executor_limits());
    loop {
        match reactor.next(None)? {
            Some(Event::Received { bytes, .. }) => decoder.push(&bytes),
            Some(Event::Closed { reason, .. }) => {
                return Ok(execute::executor_outcome(decoder, &reason));
            }
            _ => {}
        }
    }
}

fn number<T: TryFrom<i64>>(object: &Object, key: &str) -> Option<T> {
    T::try_from(json::int_of(object, key)?).ok()
}

/// How the process of [`START`] ended, as the answer of
/// [`async_outcome`](crate::handlers::async_outcome).
pub fn started(exit: ctrl_exec_reactor::ChildExit, stderr: Vec<u8>) -> Result<bool, String> {
    use ctrl_exec_reactor::ChildExit;
    match exit {
        ChildExit::Code(0) => Ok(true),
        ChildExit::Code(code) if code == i32::from(EXIT_BUSY) => Ok(false),
        ChildExit::TimedOut => Err("timed out".into()),
        _ => {
            let text = json::lossy(&stderr);
            Err(match text.trim() {
                "" => "its process died".to_owned(),
                text => text.to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_its_text() {
        let job = SupervisedRun {
            run: Run {
                request: RunRequest {
                    script: "slow".into(),
                    args: vec!["a b".into(), "é\n".into()],
                    reqid: "r".into(),
                    run_async: true,
                    ..RunRequest::default()
                },
                path: "/opt/slow".into(),
                dispatcher: "disp".into(),
                peer_ip: "::1".into(),
                serial: "".into(),
            },
            stdin: "{\"x\":1}".into(),
            started: "2026-01-01T00:00:00Z".into(),
            runs_dir: "/var/runs".into(),
            executor: None,
            limits: RunLimits {
                stdin_timeout: 10,
                script_timeout: 0,
                max_output: 4096,
            },
            store: Limits {
                records: 5,
                bytes: 1 << 33,
            },
        };
        assert_eq!(
            SupervisedRun::parse(job.render().as_bytes()),
            Some(job.clone())
        );
        let job = SupervisedRun {
            executor: Some("/run/x.sock".into()),
            ..job
        };
        assert_eq!(SupervisedRun::parse(job.render().as_bytes()), Some(job));
        assert_eq!(SupervisedRun::parse(b"{}"), None);
        assert_eq!(SupervisedRun::parse(b""), None);
    }
}
