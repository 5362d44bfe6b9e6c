//! The runs that are going on: scripts that are children of this process, calls of the executor,
//! and starts of detached runs; what they may take of memory together, and how each ends.

use super::execute::{self, Environment, RunLimits};
use super::oom;
use super::outcome::Outcome;
use super::run::Run;
use super::store::Limits;
use super::supervisor::{self, SupervisedRun};
use crate::config::MAX_CHILDREN;
use crate::table::Table;
use ctrl_exec_protocol::config::AgentConf;
use ctrl_exec_protocol::frame::{self, ResponseDecoder};
use ctrl_exec_protocol::live::Found;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RunningScript;
use ctrl_exec_reactor::{
    ChildId, ChildResult, ChildSpec, CloseReason, ConnId, Output, Reactor, SpawnError,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Output kept of one stream at the least; a run that cannot have it is refused.
pub const MIN_OUTPUT: usize = 4096;
/// How long the start of a detached run may take.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The most runs at a time that any configuration may ask for.
pub const MOST: usize = MAX_CHILDREN as usize;

/// The runs that are going on. `ConnId` names the connection whose request asked for a run.
pub struct InFlight {
    children: Table<ChildId, Child, MOST>,
    calls: Table<ConnId, ExecutorCall, MOST>,
    /// Bytes for requests, answers and output together.
    budget: usize,
    /// Bytes of output that waits for the callers who want it while it comes.
    pub waiting_output: usize,
    /// What scripts have in their environment.
    environment: Environment,
}

/// How a run came to its end.
pub enum Ended {
    /// Its script ended, or could not be started.
    Run {
        /// Who asked.
        conn: ConnId,
        /// What was asked.
        run: Box<Run>,
        /// What became of it.
        outcome: Outcome,
        /// Bytes of standard input that the script did not take in time.
        unread: Option<usize>,
    },
    /// It was handed to its supervisor (true), its script is running already (false), or it could
    /// not be started (the text says why).
    Detached {
        /// Who asked.
        conn: ConnId,
        /// What was asked.
        run: Box<Run>,
        /// How it went.
        started: Result<bool, String>,
        /// It was cancelled meanwhile.
        cancelled: bool,
    },
    /// It was not started, because as many run as may, or as memory allows.
    Busy {
        /// Who asked.
        conn: ConnId,
        /// What was asked.
        run: Box<Run>,
        /// Why, for the caller.
        error: String,
    },
    /// It was cancelled before anything of it ran.
    Cancelled {
        /// Who asked for it.
        conn: ConnId,
        /// What was asked.
        run: Box<Run>,
    },
}

/// A child process of this agent.
enum Child {
    /// The script of this run.
    Script {
        conn: ConnId,
        run: Box<Run>,
        limits: RunLimits,
        since: Duration,
        oom_kills: Option<u64>,
    },
    /// The start of this detached run.
    Start {
        conn: ConnId,
        run: Box<Run>,
        since: Duration,
        cancelled: bool,
    },
}

/// A connection to the executor.
struct ExecutorCall {
    conn: ConnId,
    run: Box<Run>,
    /// Made when the first piece of the answer comes: until then nothing is kept.
    decoder: Option<ResponseDecoder>,
    /// The part of the memory budget set aside for it.
    reserved: usize,
    since: Duration,
    /// It was cancelled before the executor had taken it.
    cancelled: bool,
}

impl InFlight {
    /// Nothing is going on; `budget` is what requests, answers and output may take together.
    pub fn new(budget: usize) -> InFlight {
        InFlight {
            children: Table::new(),
            calls: Table::new(),
            budget,
            waiting_output: 0,
            environment: execute::script_environment(),
        }
    }

    /// The memory budget, in bytes.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Scripts that are going on, the executor's included. Hooks and starts of detached runs are
    /// not among them.
    pub fn count(&self) -> usize {
        let scripts = self.children.values().filter(|child| child.is_script());
        scripts.count() + self.calls.len()
    }

    /// The runs of one dispatcher that are going on here.
    pub fn of<'a>(
        &'a self,
        now: Duration,
        dispatcher: &'a str,
    ) -> impl Iterator<Item = RunningScript> + 'a {
        self.all()
            .filter(move |(run, _)| run.dispatcher == dispatcher)
            .map(move |(run, since)| RunningScript {
                reqid: run.request.reqid.clone(),
                script: run.request.script.clone(),
                seconds: now.saturating_sub(since).as_secs(),
                run_async: run.request.run_async,
            })
    }

    /// Every run, with the time of its start.
    pub fn all(&self) -> impl Iterator<Item = (&Run, Duration)> {
        let children = self.children.values().map(|child| match child {
            Child::Script { run, since, .. } | Child::Start { run, since, .. } => {
                (run.as_ref(), *since)
            }
        });
        let calls = self.calls.values();
        children.chain(calls.map(|call| (call.run.as_ref(), call.since)))
    }

    /// Ends those runs that `which` picks: their request ids. What has not begun does not begin.
    pub fn cancel(
        &mut self,
        reactor: &mut Reactor,
        mut which: impl FnMut(&Run) -> bool,
    ) -> Vec<String> {
        let mut ids = Vec::new();
        let mut scripts = Vec::new();
        for (id, child) in self.children.iter_mut() {
            match child {
                Child::Script { run, .. } if which(run) => {
                    scripts.push(id);
                    ids.push(run.request.reqid.clone());
                }
                Child::Start { run, cancelled, .. } if which(run) => {
                    *cancelled = true;
                    ids.push(run.request.reqid.clone());
                }
                _ => {}
            }
        }
        for script in scripts {
            reactor.end_child(script);
        }
        let mut calls = Vec::new();
        for (id, call) in self.calls.iter_mut() {
            if which(&call.run) {
                ids.push(call.run.request.reqid.clone());
                call.cancelled = !reactor.is_connected(id);
                calls.push((id, call.cancelled));
            }
        }
        for (call, unsent) in calls {
            if unsent {
                reactor.close(call);
            } else {
                reactor.send_more(call, frame::CANCEL);
            }
        }
        ids
    }

    /// The runs that wait for something before their script begins.
    pub fn waiting(&self, reactor: &Reactor) -> Vec<Run> {
        let starts = self.children.values().filter_map(|child| match child {
            Child::Start { run, .. } => Some(run.as_ref().clone()),
            Child::Script { .. } => None,
        });
        let calls = self.calls.iter();
        let calls = calls.filter(|(id, _)| !reactor.is_connected(*id));
        starts
            .chain(calls.map(|(_, call)| call.run.as_ref().clone()))
            .collect()
    }

    /// What runs, for somebody who is turned away: the longest first.
    fn crowd(&self, now: Duration, most: usize) -> String {
        const SHOWN: usize = 4;
        let mut all: Vec<_> = self
            .all()
            .filter(|(run, _)| !run.request.run_async)
            .collect();
        all.sort_by_key(|(_, since)| *since);
        let mut text = format!("busy: {} of {most}:", all.len());
        for (at, (run, since)) in all.iter().take(SHOWN).enumerate() {
            let seconds = now.saturating_sub(*since).as_secs();
            let comma = if at > 0 { "," } else { "" };
            text.push_str(&format!("{comma} {} for {seconds} s", run.request.script));
        }
        if all.len() > SHOWN {
            text.push_str(", ...");
        }
        text
    }

    /// Runs a script for the caller on `conn`. The result, if it is over at once.
    pub fn start(
        &mut self,
        reactor: &mut Reactor,
        conf: &AgentConf,
        conn: ConnId,
        mut run: Box<Run>,
    ) -> Option<Ended> {
        let busy = |run, error| Some(Ended::Busy { conn, run, error });
        // Callers may go away, their scripts stay.
        let most = (conf.max_children as usize).min(MOST);
        if self.count() >= most || self.children.is_full() || self.calls.is_full() {
            return busy(run, self.crowd(reactor.now(), most));
        }
        if self.free(reactor) < 2 * MIN_OUTPUT {
            let text = self.crowd(reactor.now(), most);
            return busy(
                run,
                text.replacen("busy:", "busy: memory budget exhausted:", 1),
            );
        }
        let limits = limits(conf, &run);
        let stdin = run.take_stdin(Utc::now());
        match &conf.executor_socket {
            Some(socket) => self.call_executor(reactor, conn, run, socket, stdin),
            None => self.start_script(reactor, conn, run, stdin, limits),
        }
    }

    /// Starts a run that outlives its request, and this process. The result, if it is over at once.
    pub fn detach(
        &mut self,
        reactor: &mut Reactor,
        conf: &AgentConf,
        runs_dir: &Path,
        conn: ConnId,
        mut run: Run,
    ) -> Option<Ended> {
        // A caller that goes away leaves its start behind, so these may outnumber connections.
        if self.children.is_full() {
            let (run, error) = (
                Box::new(run),
                "busy: too many runs are being started".into(),
            );
            return Some(Ended::Busy { conn, run, error });
        }
        let since = reactor.now();
        let now = Utc::now();
        let order = SupervisedRun {
            stdin: run.take_stdin(now),
            started: now.iso(),
            runs_dir: runs_dir.to_string_lossy().into_owned(),
            executor: conf.executor_socket.clone(),
            limits: limits(conf, &run),
            store: Limits {
                records: conf.async_max_records,
                bytes: conf.async_max_bytes,
            },
            run,
        };
        let spec = ChildSpec {
            args: vec![supervisor::START.into()],
            env: std::env::vars_os().collect(),
            stdin: order.render().into_bytes(),
            stdout: Output::Null,
            stderr: Output::Capture {
                head: 1024,
                tail: 0,
            },
            timeout: Some(START_PATIENCE),
            ..ChildSpec::new(supervisor::own_program())
        };
        let run = Box::new(order.run);
        match reactor.spawn(spec) {
            Ok(child) => {
                let start = Child::Start {
                    conn,
                    run,
                    since,
                    cancelled: false,
                };
                self.children.insert(child, start);
                None
            }
            Err(error) => Some(Ended::Detached {
                conn,
                run,
                started: Err(SpawnError::to_string(&error)),
                cancelled: false,
            }),
        }
    }

    /// A child process ended. `None`: it is none of a run.
    pub fn child_ended(&mut self, child: ChildId, result: ChildResult) -> Option<Ended> {
        Some(match self.children.remove(child)? {
            Child::Script {
                conn,
                run,
                limits,
                oom_kills,
                ..
            } => Ended::Run {
                conn,
                run,
                unread: result.stdin_timed_out.then_some(result.stdin_unwritten),
                outcome: execute::child_outcome(result, limits, oom_kills),
            },
            Child::Start {
                conn,
                run,
                cancelled,
                ..
            } => Ended::Detached {
                conn,
                run,
                started: supervisor::started(result.exit, result.stderr.into_bytes()),
                cancelled,
            },
        })
    }

    /// Who asked for the run whose script this child is.
    pub fn caller(&mut self, child: ChildId) -> Option<ConnId> {
        match self.children.get_mut(child)? {
            Child::Script { conn, .. } => Some(*conn),
            Child::Start { .. } => None,
        }
    }

    /// Whether this is a connection to the executor.
    pub fn is_call(&self, call: ConnId) -> bool {
        self.calls.contains(call)
    }

    /// A piece of the executor's response came. `output` is told what of it is output that its
    /// caller wants while it comes; the result is who that is.
    pub fn received(
        &mut self,
        reactor: &Reactor,
        conf: &AgentConf,
        call: ConnId,
        bytes: &[u8],
        output: &mut dyn FnMut(ConnId, Found<'_>),
    ) -> Option<ConnId> {
        let share = (self.free(reactor) / 5)
            .max(MIN_OUTPUT)
            .min(conf.max_output as usize);
        let call = self.calls.get_mut(call)?;
        if call.decoder.is_none() {
            call.reserved = 2 * share;
        }
        let conn = call.conn;
        call.decoder
            .get_or_insert_with(|| ResponseDecoder::new(share))
            .push_live(bytes, &mut |found| output(conn, found));
        Some(conn)
    }

    /// A connection to the executor is over.
    pub fn call_closed(&mut self, call: ConnId, reason: &CloseReason) -> Option<Ended> {
        let call = self.calls.remove(call)?;
        if call.cancelled {
            let ExecutorCall { conn, run, .. } = call;
            return Some(Ended::Cancelled { conn, run });
        }
        let decoder = call.decoder.unwrap_or_else(|| ResponseDecoder::new(0));
        let outcome = execute::executor_outcome(decoder, reason);
        Some(over(call.conn, call.run, outcome))
    }

    fn start_script(
        &mut self,
        reactor: &mut Reactor,
        conn: ConnId,
        run: Box<Run>,
        stdin: Vec<u8>,
        limits: RunLimits,
    ) -> Option<Ended> {
        let spec = execute::script_child(
            &run.path,
            &run.request.args,
            Arc::clone(&self.environment),
            stdin,
            limits,
            run.request.stream,
        );
        let oom_kills = oom::kills();
        match reactor.spawn(spec) {
            Ok(child) => {
                let since = reactor.now();
                let script = Child::Script {
                    conn,
                    run,
                    limits,
                    since,
                    oom_kills,
                };
                self.children.insert(child, script);
                None
            }
            Err(error) => {
                let outcome = execute::spawn_failure(&run.path, &error);
                Some(over(conn, run, outcome))
            }
        }
    }

    fn call_executor(
        &mut self,
        reactor: &mut Reactor,
        conn: ConnId,
        run: Box<Run>,
        socket: &str,
        stdin: Vec<u8>,
    ) -> Option<Ended> {
        let request = match execute::executor_request(&run, stdin) {
            Ok(request) => request,
            Err(stderr) => {
                let outcome = Outcome {
                    exit: -1,
                    stderr,
                    ..Outcome::default()
                };
                return Some(over(conn, run, outcome));
            }
        };
        let call = reactor.connect_unix(Path::new(socket), request, execute::executor_limits());
        let entry = ExecutorCall {
            conn,
            run,
            decoder: None,
            reserved: 2 * MIN_OUTPUT,
            since: reactor.now(),
            cancelled: false,
        };
        self.calls.insert(call, entry);
        None
    }

    /// Bytes of the budget that nobody has or may claim: every script may keep a little whatever
    /// comes, and more as it comes while there is room.
    pub fn free(&self, reactor: &Reactor) -> usize {
        let claims = self.children.values().filter(|child| child.is_script());
        let claimed = claims.count() * 2 * MIN_OUTPUT;
        let calls: usize = self.calls.values().map(|call| call.reserved).sum();
        // A quarter stays for requests and answers.
        let budget = self.budget / 4 * 3;
        budget.saturating_sub(claimed + calls + self.waiting_output + reactor.buffered_bytes())
    }
}

impl Child {
    fn is_script(&self) -> bool {
        matches!(self, Child::Script { .. })
    }
}

fn over(conn: ConnId, run: Box<Run>, outcome: Outcome) -> Ended {
    Ended::Run {
        conn,
        run,
        outcome,
        unread: None,
    }
}

fn limits(conf: &AgentConf, run: &Run) -> RunLimits {
    RunLimits {
        stdin_timeout: conf.stdin_timeout,
        script_timeout: run.time_limit(conf.script_timeout),
        max_output: conf.max_output as usize,
    }
}
