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
use crate::runs::store::{Limits, RETENTION, Store};
use crate::runs::{lock, oom};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_host::{Root, stderr};
use ctrl_exec_protocol::base64;
use ctrl_exec_protocol::frame::{self, ResponseDecoder};
use ctrl_exec_protocol::json::{self, Bounds, Fields, Raw};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{Ending, RunRequest};
use ctrl_exec_reactor::{Config, Event, Reactor, Signal};
use ctrl_exec_spawn::{self as spawn, Fault, Stdio, Strings};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// First argument of the process that starts a run.
pub const START: &str = "__job";
/// The signal by which a supervisor is told to end its run.
pub const CANCEL: rustix::process::Signal = rustix::process::Signal::USR1;
/// First argument of the process that supervises a run.
pub const SUPERVISE: &str = "__job-run";
/// Exit code of [`START`]: the script is already running.
pub const EXIT_BUSY: u8 = 1;
/// Exit code of [`START`]: it failed; standard error says why.
pub const EXIT_FAILED: u8 = 2;

/// What a supervisor says on its standard error when it is ready.
const READY: &[u8] = b"R";
/// Pauses between two tries to store a result.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The largest job text: arguments and standard input, each at most a request body, escaped.
const MAX_JOB: u64 = 16 * 1024 * 1024;
const JOB_BOUNDS: Bounds = Bounds {
    max_nodes: 8192,
    max_depth: 4,
};

/// Members of a job text.
const NAMES: [&str; 17] = [
    "script",
    "args",
    "reqid",
    "path",
    "dispatcher",
    "peer_ip",
    "stdin",
    "started",
    "runs_dir",
    "executor",
    "stdin_timeout",
    "script_timeout",
    "max_output",
    "time_limit",
    "byte_args",
    "records",
    "bytes",
];

/// Everything the supervisor needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisedRun {
    /// The run.
    pub run: Run,
    /// What its script reads.
    pub stdin: Vec<u8>,
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
        Fields::with_room(17)
            .text("script", &request.script)
            .texts("args", &request.args)
            .text("reqid", &request.reqid)
            .text("path", &self.run.path)
            .text("dispatcher", &self.run.dispatcher)
            .text("peer_ip", &self.run.peer_ip)
            .text("stdin", &base64::encode(&self.stdin))
            .text("started", &self.started)
            .text("runs_dir", &self.runs_dir)
            .text_if("executor", self.executor.as_deref())
            .integer("stdin_timeout", self.limits.stdin_timeout.into())
            .integer("script_timeout", self.limits.script_timeout.into())
            .integer(
                "max_output",
                i64::try_from(self.limits.max_output).unwrap_or(i64::MAX),
            )
            .integer("time_limit", request.time_limit.unwrap_or(0).into())
            .integer("byte_args", i64::from(self.run.byte_args))
            .integer("records", self.store.records.into())
            .integer("bytes", i64::try_from(self.store.bytes).unwrap_or(i64::MAX))
            .finish()
    }

    /// Reads [`SupervisedRun::render`]'s text.
    fn parse(text: &[u8]) -> Option<SupervisedRun> {
        let members = Raw::parse(text, &JOB_BOUNDS).ok()?.select(NAMES);
        let member = |name: &str| {
            let at = NAMES.iter().position(|known| *known == name);
            members.get(at?).copied().flatten()
        };
        let text = |name: &str| member(name)?.string();
        let number = |name: &str| member(name)?.scalar().count();
        let small = |name: &str| u32::try_from(number(name)?).ok();
        let mut args = Vec::new();
        for arg in member("args")?.items() {
            args.push(arg.string()?);
        }
        let request = RunRequest {
            script: text("script")?,
            args,
            reqid: text("reqid")?,
            run_async: true,
            time_limit: small("time_limit").filter(|seconds| *seconds > 0),
            ..RunRequest::default()
        };
        Some(SupervisedRun {
            run: Run {
                request,
                path: text("path")?,
                dispatcher: text("dispatcher")?,
                peer_ip: text("peer_ip")?,
                serial: "".into(),
                byte_args: small("byte_args")? != 0,
            },
            stdin: base64::decode(&text("stdin")?)?,
            started: text("started")?,
            runs_dir: text("runs_dir")?,
            executor: text("executor"),
            limits: RunLimits {
                stdin_timeout: small("stdin_timeout")?,
                script_timeout: small("script_timeout")?,
                max_output: usize::try_from(number("max_output")?).ok()?,
            },
            store: Limits {
                records: small("records")?,
                bytes: number("bytes")?,
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
    let outcome = ready()
        .and_then(|reactor| run(&job, reactor))
        .unwrap_or_else(|error| Outcome {
            exit: -1,
            stderr: format!("ctrl-exec-agent: {error}\n"),
            ..Outcome::default()
        });
    keep(&job, &outcome)
}

/// Stores a result, trying again until the disk takes it: the lock stays held meanwhile, so nobody
/// takes the run for lost.
fn keep(job: &SupervisedRun, outcome: &Outcome) -> u8 {
    let store = Store::new(&job.runs_dir);
    let (id, finished) = (job.run.id(), Utc::now());
    let mut pause = FIRST_PAUSE;
    let mut waited = Duration::ZERO;
    loop {
        let Err(error) = store.write_done(&id, &job.started, finished, outcome) else {
            return 0;
        };
        if waited.is_zero() || waited >= RETENTION {
            let line = Line::new("async-store-fail")
                .field("REQID", &id.reqid)
                .field("EXIT", outcome.exit)
                .field("ERROR", error);
            Syslog::open("ctrl-exec-agent", &Root::system()).log(Level::Err, &line);
        }
        if waited >= RETENTION {
            return EXIT_FAILED;
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Makes this process ready to be told to end its run, introduces it in the lock, and tells the
/// one that waits for it.
fn ready() -> io::Result<Reactor> {
    let mut reactor = Reactor::new(Config {
        max_conns: 1,
        ..Config::default()
    })?;
    reactor.watch_signals(&[Signal::Usr1])?;
    // Standard output is the lock. Without the line the run cannot be cancelled; that is all.
    let mut lock = io::stdout();
    let _ = lock
        .write_all(lock::introduction().as_bytes())
        .and_then(|()| lock.flush());
    io::stderr().write_all(READY)?;
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(reactor)
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
    detach(&text, &lock).map(|()| true).map_err(|error| {
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
fn detach(job: &[u8], lock: &File) -> io::Result<()> {
    // Fails only for the leader of a process group that is already a session of its own.
    let _ = rustix::process::setsid();
    let mut strings = Strings::new(own_program().as_os_str());
    strings.arg(SUPERVISE.as_ref());
    let streams = [Stdio::Pipe, Stdio::File(lock.as_fd()), Stdio::Pipe];
    let started = spawn::start(&strings, streams, false).map_err(Fault::into_io)?;
    let [Some(stdin), None, Some(stderr)] = started.pipes else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    File::from(stdin).write_all(job)?;
    let mut word = Vec::new();
    File::from(stderr)
        .take(READY.len() as u64)
        .read_to_end(&mut word)?;
    if word == READY {
        Ok(())
    } else {
        Err(io::Error::other("its supervisor died"))
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

fn run(job: &SupervisedRun, mut reactor: Reactor) -> io::Result<Outcome> {
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
        false,
    );
    let oom_kills = oom::kills();
    let child = match reactor.spawn(child) {
        Ok(child) => child,
        Err(error) => return Ok(execute::spawn_failure(&run.path, &error)),
    };
    loop {
        match reactor.next(None)? {
            Some(Event::Child { result, .. }) => {
                return Ok(execute::child_outcome(*result, *limits, oom_kills));
            }
            Some(Event::Signal(_)) => {
                reactor.end_child(child);
            }
            _ => {}
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
    let call = reactor.connect_unix(Path::new(socket), request, execute::executor_limits());
    let mut cancelled = false;
    loop {
        match reactor.next(None)? {
            Some(Event::Signal(_)) if reactor.is_connected(call) => {
                reactor.send_more(call, frame::CANCEL);
            }
            Some(Event::Signal(_)) => {
                cancelled = true;
                reactor.close(call);
            }
            Some(Event::Closed { .. }) if cancelled => return Ok(not_begun()),
            Some(Event::Received { bytes, .. }) => decoder.push(&bytes),
            Some(Event::Closed { reason, .. }) => {
                return Ok(execute::executor_outcome(decoder, &reason));
            }
            _ => {}
        }
    }
}

/// The outcome of a run that was cancelled before its script was started.
fn not_begun() -> Outcome {
    Outcome {
        exit: -1,
        stderr: "ctrl-exec-agent: cancelled before it began; nothing ran\n".into(),
        ending: Ending {
            cancelled: true,
            ..Ending::default()
        },
        ..Outcome::default()
    }
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
                    time_limit: Some(9),
                    ..RunRequest::default()
                },
                path: "/opt/slow".into(),
                dispatcher: "disp".into(),
                peer_ip: "::1".into(),
                serial: "".into(),
                byte_args: true,
            },
            stdin: b"{\"x\":1}\n\xff\0".into(),
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
