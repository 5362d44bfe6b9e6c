//! Carrying out the steps of the handlers: hooks, scripts, calls of the executor, async runs.

use super::Server;
use crate::executable::is_executable;
use crate::handlers::{self, Intent, Peer, Step};
use crate::runs::execute::{self, RunLimits};
use crate::runs::outcome::Outcome;
use crate::runs::run::Run;
use crate::runs::store::Limits;
use crate::runs::supervisor::{self, SupervisedRun};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::frame::ResponseDecoder;
use ctrl_exec_protocol::hook::{HookEnd, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_reactor::{
    ChildExit, ChildResult, ChildSpec, CloseReason, ConnId, Output, SpawnError,
};
use std::path::Path;
use std::time::Duration;

/// Output kept of one stream at the least; a run that cannot have it is refused.
const MIN_OUTPUT: usize = 4096;
/// How long the start of an async run may take.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What a child process is for.
pub(super) enum Pending {
    /// The auth hook decides about this.
    Hook(ConnId, Peer, Intent),
    /// The script of this run.
    Script(ConnId, Box<Run>, RunLimits),
    /// The start of this async run.
    Start(ConnId, Box<Run>),
}

/// A call of the executor.
pub(super) struct Call {
    conn: ConnId,
    run: Box<Run>,
    decoder: ResponseDecoder,
    reserved: usize,
}

impl Server {
    /// Does what a handler decided.
    pub(super) fn carry_out(&mut self, conn: ConnId, peer: &Peer, step: Step) {
        match step {
            Step::Reply(reply) => self.answer(conn, &reply),
            Step::AskHook(hook, intent) => self.ask_hook(conn, peer, &hook, intent),
            Step::Run(run) => self.run_script(conn, run),
            Step::RunAsync(run) => self.start_async(conn, *run),
        }
    }

    /// A child process ended.
    pub(super) fn child_ended(&mut self, child: ctrl_exec_reactor::ChildId, result: ChildResult) {
        match self.children.remove(child) {
            Some(Pending::Hook(conn, peer, intent)) => {
                let end = match result.exit {
                    ChildExit::Code(code) => HookEnd::Exited(code),
                    ChildExit::Signal(_) => HookEnd::Signalled,
                    ChildExit::TimedOut => HookEnd::TimedOut,
                };
                let step = handlers::hook_done(&mut self.state, &peer, intent, end);
                self.carry_out(conn, &peer, step);
            }
            Some(Pending::Script(conn, run, limits)) => {
                if result.stdin_timed_out {
                    let line = Line::new("stdin-timeout").field("BYTES", result.stdin_unwritten);
                    self.log.log(Level::Warning, &line);
                }
                self.finish_run(conn, &run, execute::child_outcome(result, limits));
            }
            Some(Pending::Start(conn, run)) => {
                let started = supervisor::started(result.exit, result.stderr.into_bytes());
                let reply = handlers::async_outcome(&mut self.state, &run, started);
                self.answer(conn, &reply);
            }
            None => {}
        }
    }

    /// A piece of the executor's response.
    pub(super) fn received(&mut self, conn: ConnId, bytes: &[u8]) {
        if let Some(call) = self.calls.get_mut(conn) {
            call.decoder.push(bytes);
        }
    }

    /// The connection to the executor is over.
    pub(super) fn executor_closed(&mut self, conn: ConnId, reason: &CloseReason) {
        if let Some(call) = self.calls.remove(conn) {
            let outcome = execute::executor_outcome(call.decoder, reason);
            self.finish_run(call.conn, &call.run, outcome);
        }
    }

    fn ask_hook(&mut self, conn: ConnId, peer: &Peer, hook: &HookRequest, intent: Intent) {
        let conf = &self.state.loaded.conf;
        let program = conf.auth_hook.clone().unwrap_or_default();
        if !is_executable(&program) {
            let step = handlers::hook_missing(&mut self.state, peer, intent);
            self.carry_out(conn, peer, step);
            return;
        }
        let timeout = execute::seconds(conf.auth_hook_timeout);
        let mut env: Vec<_> = std::env::vars_os().collect();
        for (name, value) in hook.env() {
            env.retain(|(known, _)| known != name);
            env.push((name.into(), value.into()));
        }
        let spec = ChildSpec {
            env,
            stdin: hook.stdin_json().into_bytes(),
            stdin_timeout: timeout.unwrap_or(Duration::from_secs(600)),
            stdout: Output::Null,
            stderr: Output::Null,
            timeout,
            ..ChildSpec::new(program)
        };
        match self.reactor.spawn(spec) {
            Ok(child) => {
                self.children
                    .insert(child, Pending::Hook(conn, peer.clone(), intent));
            }
            Err(_) => {
                let step = handlers::hook_done(&mut self.state, peer, intent, HookEnd::NotStarted);
                self.carry_out(conn, peer, step);
            }
        }
    }

    fn run_script(&mut self, conn: ConnId, run: Box<Run>) {
        if self.reactor.live_children() + self.calls.len() >= self.max_runs() {
            self.refuse(conn, &run, "agent busy: too many scripts are running");
            return;
        }
        let Some(max_output) = self.output_share() else {
            self.refuse(conn, &run, "agent busy: memory budget exhausted");
            return;
        };
        let limits = RunLimits {
            max_output,
            ..self.run_limits()
        };
        let stdin = run.stdin(Utc::now());
        if let Some(socket) = self.state.loaded.conf.executor_socket.clone() {
            self.call_executor(conn, run, &socket, stdin, max_output);
            return;
        }
        let spec = execute::script_child(&run.path, &run.request.args, stdin, limits);
        match self.reactor.spawn(spec) {
            Ok(child) => {
                self.children
                    .insert(child, Pending::Script(conn, run, limits));
            }
            Err(error) => {
                let outcome = execute::spawn_failure(&run.path, &error);
                self.finish_run(conn, &run, outcome);
            }
        }
    }

    fn call_executor(
        &mut self,
        conn: ConnId,
        run: Box<Run>,
        socket: &str,
        stdin: String,
        max_output: usize,
    ) {
        match execute::executor_request(&run, stdin) {
            Ok(request) => {
                let limits = execute::executor_limits();
                let call = self
                    .reactor
                    .connect_unix(Path::new(socket), request, limits);
                let decoder = ResponseDecoder::new(max_output);
                self.calls.insert(
                    call,
                    Call {
                        conn,
                        run,
                        decoder,
                        reserved: 2 * max_output,
                    },
                );
            }
            Err(stderr) => {
                let outcome = Outcome {
                    exit: -1,
                    stderr,
                    ..Outcome::default()
                };
                self.finish_run(conn, &run, outcome);
            }
        }
    }

    fn start_async(&mut self, conn: ConnId, run: Run) {
        let conf = &self.state.loaded.conf;
        let now = Utc::now();
        let job = SupervisedRun {
            stdin: run.stdin(now),
            started: now.iso(),
            runs_dir: self.state.paths.runs(conf).to_string_lossy().into_owned(),
            executor: conf.executor_socket.clone(),
            limits: self.run_limits(),
            store: Limits {
                records: conf.async_max_records,
                bytes: conf.async_max_bytes,
            },
            run,
        };
        let spec = ChildSpec {
            args: vec![supervisor::START.into()],
            env: std::env::vars_os().collect(),
            stdin: job.render().into_bytes(),
            stdout: Output::Null,
            stderr: Output::Capture {
                head: 1024,
                tail: 0,
            },
            timeout: Some(START_PATIENCE),
            ..ChildSpec::new(supervisor::own_program())
        };
        let run = Box::new(job.run);
        match self.reactor.spawn(spec) {
            Ok(child) => {
                self.children.insert(child, Pending::Start(conn, run));
            }
            Err(error) => {
                let started = Err(SpawnError::to_string(&error));
                let reply = handlers::async_outcome(&mut self.state, &run, started);
                self.answer(conn, &reply);
            }
        }
    }

    fn finish_run(&mut self, conn: ConnId, run: &Run, outcome: Outcome) {
        let reply = handlers::run_outcome(&mut self.state, run, outcome);
        self.answer(conn, &reply);
    }

    fn refuse(&mut self, conn: ConnId, run: &Run, error: &str) {
        let line = Line::new("overload")
            .field("PEER", &run.peer_ip)
            .field("LIVE", self.reactor.live_children() + self.calls.len())
            .field("REASON", error);
        self.log.log(Level::Warning, &line);
        let reply = handlers::refuse_run(run, error);
        self.answer(conn, &reply);
    }

    fn run_limits(&self) -> RunLimits {
        let conf = &self.state.loaded.conf;
        RunLimits {
            stdin_timeout: conf.stdin_timeout,
            script_timeout: conf.script_timeout,
            max_output: conf.max_output as usize,
        }
    }

    /// Scripts at a time: callers may go away, their scripts stay.
    fn max_runs(&self) -> usize {
        self.state.loaded.conf.max_children as usize
    }

    /// Bytes that one more run may keep of each output stream; `None` when too little is left. The
    /// shares of all runs in flight stay within the budget: the first ones get what is configured,
    /// later ones a part of what is left.
    fn output_share(&self) -> Option<usize> {
        let scripts: usize = self.children.values().map(Pending::reserved).sum();
        let calls: usize = self.calls.values().map(|call| call.reserved).sum();
        let used = (scripts + calls).max(self.reactor.buffered_bytes());
        // A quarter stays for requests and answers.
        let budget = self.budget / 4 * 3;
        let free = budget.saturating_sub(used);
        let part = if free > budget / 2 {
            free / 5
        } else {
            free / 32
        };
        let most = self.state.loaded.conf.max_output as usize;
        (free >= 2 * MIN_OUTPUT).then(|| part.max(MIN_OUTPUT).min(most))
    }
}

impl Pending {
    /// The part of the memory budget set aside for it.
    fn reserved(&self) -> usize {
        match self {
            Pending::Script(_, _, limits) => 2 * limits.max_output,
            Pending::Hook(..) | Pending::Start(..) => 0,
        }
    }
}
