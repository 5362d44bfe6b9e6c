//! The runs that are going on: scripts that are children of this process, calls of the executor,
//! and starts of detached runs; what they may take of memory together, and how each ends.

use super::execute::{self, Environment, RunLimits};
use super::outcome::Outcome;
use super::run::Run;
use super::store::Limits;
use super::supervisor::{self, SupervisedRun};
use crate::config::MAX_CHILDREN;
use crate::table::Table;
use ctrl_exec_protocol::config::AgentConf;
use ctrl_exec_protocol::frame::ResponseDecoder;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_reactor::{
    ChildId, ChildResult, ChildSpec, CloseReason, ConnId, Output, Reactor, SpawnError,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Output kept of one stream at the least; a run that cannot have it is refused.
const MIN_OUTPUT: usize = 4096;
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
    },
    /// It was not started.
    Refused {
        /// Who asked.
        conn: ConnId,
        /// What was asked.
        run: Box<Run>,
        /// Why, for the caller.
        error: &'static str,
    },
}

/// A child process of this agent.
enum Child {
    /// The script of this run.
    Script(ConnId, Box<Run>, RunLimits),
    /// The start of this detached run.
    Start(ConnId, Box<Run>),
}

/// A connection to the executor.
struct ExecutorCall {
    conn: ConnId,
    run: Box<Run>,
    decoder: ResponseDecoder,
    /// The part of the memory budget set aside for it.
    reserved: usize,
}

impl InFlight {
    /// Nothing is going on; `budget` is what requests, answers and output may take together.
    pub fn new(budget: usize) -> InFlight {
        InFlight {
            children: Table::new(),
            calls: Table::new(),
            budget,
            environment: execute::script_environment(),
        }
    }

    /// The memory budget, in bytes.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Scripts and hooks that are going on, the executor's included.
    pub fn count(&self, reactor: &Reactor) -> usize {
        reactor.live_children() + self.calls.len()
    }

    /// Runs a script for the caller on `conn`. The result, if it is over at once.
    pub fn start(
        &mut self,
        reactor: &mut Reactor,
        conf: &AgentConf,
        conn: ConnId,
        run: Box<Run>,
    ) -> Option<Ended> {
        let refused = |run, error| Some(Ended::Refused { conn, run, error });
        // Callers may go away, their scripts stay.
        let full = self.count(reactor) >= conf.max_children as usize;
        if full || self.children.is_full() || self.calls.is_full() {
            return refused(run, "agent busy: too many scripts are running");
        }
        let Some(max_output) = self.output_share(reactor, conf) else {
            return refused(run, "agent busy: memory budget exhausted");
        };
        let limits = RunLimits {
            max_output,
            ..limits(conf)
        };
        let stdin = run.stdin(Utc::now());
        match &conf.executor_socket {
            Some(socket) => self.call_executor(reactor, conn, run, socket, stdin, max_output),
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
        run: Run,
    ) -> Option<Ended> {
        // A caller that goes away leaves its start behind, so these may outnumber connections.
        if self.children.is_full() {
            let (run, error) = (Box::new(run), "agent busy: too many scripts are running");
            return Some(Ended::Refused { conn, run, error });
        }
        let now = Utc::now();
        let order = SupervisedRun {
            stdin: run.stdin(now),
            started: now.iso(),
            runs_dir: runs_dir.to_string_lossy().into_owned(),
            executor: conf.executor_socket.clone(),
            limits: limits(conf),
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
                self.children.insert(child, Child::Start(conn, run));
                None
            }
            Err(error) => Some(Ended::Detached {
                conn,
                run,
                started: Err(SpawnError::to_string(&error)),
            }),
        }
    }

    /// A child process ended. `None`: it is none of a run.
    pub fn child_ended(&mut self, child: ChildId, result: ChildResult) -> Option<Ended> {
        Some(match self.children.remove(child)? {
            Child::Script(conn, run, limits) => Ended::Run {
                conn,
                run,
                unread: result.stdin_timed_out.then_some(result.stdin_unwritten),
                outcome: execute::child_outcome(result, limits),
            },
            Child::Start(conn, run) => Ended::Detached {
                conn,
                run,
                started: supervisor::started(result.exit, result.stderr.into_bytes()),
            },
        })
    }

    /// Whether this is a connection to the executor.
    pub fn is_call(&self, call: ConnId) -> bool {
        self.calls.contains(call)
    }

    /// A piece of the executor's response came.
    pub fn received(&mut self, call: ConnId, bytes: &[u8]) {
        if let Some(call) = self.calls.get_mut(call) {
            call.decoder.push(bytes);
        }
    }

    /// A connection to the executor is over.
    pub fn call_closed(&mut self, call: ConnId, reason: &CloseReason) -> Option<Ended> {
        let call = self.calls.remove(call)?;
        let outcome = execute::executor_outcome(call.decoder, reason);
        Some(over(call.conn, call.run, outcome))
    }

    fn start_script(
        &mut self,
        reactor: &mut Reactor,
        conn: ConnId,
        run: Box<Run>,
        stdin: String,
        limits: RunLimits,
    ) -> Option<Ended> {
        let spec = execute::script_child(
            &run.path,
            &run.request.args,
            Arc::clone(&self.environment),
            stdin,
            limits,
        );
        match reactor.spawn(spec) {
            Ok(child) => {
                self.children
                    .insert(child, Child::Script(conn, run, limits));
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
        stdin: String,
        max_output: usize,
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
            decoder: ResponseDecoder::new(max_output),
            reserved: 2 * max_output,
        };
        self.calls.insert(call, entry);
        None
    }

    /// Bytes that one more run may keep of each output stream; `None` when too little is left. The
    /// shares of all runs in flight stay within the budget: the first ones get what is configured,
    /// later ones a part of what is left.
    fn output_share(&self, reactor: &Reactor, conf: &AgentConf) -> Option<usize> {
        let scripts: usize = self.children.values().map(Child::reserved).sum();
        let calls: usize = self.calls.values().map(|call| call.reserved).sum();
        let used = (scripts + calls).max(reactor.buffered_bytes());
        // A quarter stays for requests and answers.
        let budget = self.budget / 4 * 3;
        let free = budget.saturating_sub(used);
        let part = if free > budget / 2 {
            free / 5
        } else {
            free / 32
        };
        let most = conf.max_output as usize;
        (free >= 2 * MIN_OUTPUT).then(|| part.max(MIN_OUTPUT).min(most))
    }
}

impl Child {
    /// The part of the memory budget set aside for it.
    fn reserved(&self) -> usize {
        match self {
            Child::Script(_, _, limits) => 2 * limits.max_output,
            Child::Start(..) => 0,
        }
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

fn limits(conf: &AgentConf) -> RunLimits {
    RunLimits {
        stdin_timeout: conf.stdin_timeout,
        script_timeout: conf.script_timeout,
        max_output: conf.max_output as usize,
    }
}
