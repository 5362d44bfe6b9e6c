//! Carrying out the steps of the handlers: answers, hooks, runs; and what follows when a hook or a
//! run has ended.

use super::Server;
use crate::executable::is_executable;
use crate::handlers::{self, Intent, Peer, Step};
use crate::runs::execute;
use crate::runs::in_flight::Ended;
use crate::runs::run::{Run, RunId};
use crate::runs::store::Store;
use crate::runs::supervisor;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::{HookEnd, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{CancelRequest, RunningScript};
use ctrl_exec_reactor::{ChildExit, ChildId, ChildResult, ChildSpec, CloseReason, ConnId, Output};
use std::time::Duration;

/// A request that waits for the auth hook.
pub(super) struct Waiting {
    conn: ConnId,
    peer: Peer,
    intent: Intent,
}

impl Server {
    /// Does what a handler decided.
    pub(super) fn carry_out(&mut self, conn: ConnId, peer: &Peer, step: Step) {
        let conf = &self.state.loaded.conf;
        let over = match step {
            Step::Reply(reply) => return self.answer(conn, reply),
            Step::AskHook(hook, intent) => return self.ask_hook(conn, peer, &hook, intent),
            Step::ListRuns(dispatcher) => {
                let reply = handlers::runs_listed(&self.state, self.runs_of(&dispatcher));
                return self.answer(conn, reply);
            }
            Step::Cancel(dispatcher, which) => {
                return self.cancel(conn, peer, &dispatcher, &which);
            }
            Step::Run(run) => {
                let live = run.request.stream;
                let over = self.runs.start(&mut self.reactor, conf, conn, run);
                if live && over.is_none() {
                    self.begin_live(conn);
                }
                over
            }
            Step::RunAsync(run) => {
                let dir = self.state.paths.runs(conf);
                self.runs.detach(&mut self.reactor, conf, &dir, conn, *run)
            }
        };
        if let Some(ended) = over {
            self.ended(ended);
        }
    }

    /// A child process ended: a hook, or one of a run.
    pub(super) fn child_ended(&mut self, child: ChildId, result: ChildResult) {
        if let Some(Waiting { conn, peer, intent }) = self.hooks.remove(child) {
            let end = match result.exit {
                ChildExit::Code(code) => HookEnd::Exited(code),
                ChildExit::Signal(_) => HookEnd::Signalled,
                ChildExit::TimedOut => HookEnd::TimedOut,
            };
            let step = handlers::hook_done(&mut self.state, &peer, intent, end);
            self.carry_out(conn, &peer, step);
        } else if self.gone_hooks.remove(child).is_some() {
            // What it was asked about was cancelled.
        } else if let Some(ended) = self.runs.child_ended(child, result) {
            self.ended(ended);
        }
    }

    /// A connection to the executor is over.
    pub(super) fn call_closed(&mut self, call: ConnId, reason: &CloseReason) {
        if let Some(ended) = self.runs.call_closed(call, reason) {
            self.ended(ended);
        }
    }

    /// Answers a run.
    fn ended(&mut self, ended: Ended) {
        let (conn, reply) = match ended {
            Ended::Run {
                conn,
                run,
                outcome,
                unread,
            } => {
                if let Some(bytes) = unread {
                    let line = Line::new("stdin-timeout").field("BYTES", bytes);
                    self.log.log(Level::Warning, &line);
                }
                (conn, handlers::run_outcome(&mut self.state, &run, outcome))
            }
            Ended::Detached {
                conn,
                run,
                started,
                cancelled,
            } => {
                if cancelled && started == Ok(true) {
                    self.end_detached(&run.id());
                }
                let reply = handlers::async_outcome(&mut self.state, &run, started);
                (conn, reply)
            }
            Ended::Busy { conn, run, error } => {
                let line = Line::new("overload")
                    .field("PEER", &run.peer_ip)
                    .field("LIVE", self.runs.count())
                    .field("REASON", &error);
                self.log.log(Level::Warning, &line);
                (conn, handlers::refuse_busy(&run, &error))
            }
            Ended::Cancelled { conn, run } => {
                (conn, handlers::refuse_cancelled(&mut self.state, &run))
            }
        };
        self.answer(conn, reply);
    }

    /// What runs for a dispatcher: here, waiting for a hook, and detached.
    fn runs_of(&self, dispatcher: &str) -> Vec<RunningScript> {
        let now = self.reactor.now();
        let waiting = self
            .hooks
            .values()
            .filter_map(|waiting| match &waiting.intent {
                Intent::Run(run) if run.dispatcher == dispatcher => Some(RunningScript {
                    reqid: run.request.reqid.clone(),
                    script: run.request.script.clone(),
                    seconds: 0,
                    run_async: run.request.run_async,
                }),
                _ => None,
            });
        let mut all: Vec<_> = self.runs.of(now, dispatcher).chain(waiting).collect();
        for detached in self.store().supervised(dispatcher) {
            // One that is just being started stands in both.
            if all
                .iter()
                .all(|run| run.reqid != detached.reqid || !run.run_async)
            {
                all.push(detached);
            }
        }
        all
    }

    /// Ends runs of a dispatcher, wherever they are.
    fn cancel(&mut self, conn: ConnId, peer: &Peer, dispatcher: &str, which: &CancelRequest) {
        let wanted = |run: &Run| {
            let picked = match which {
                CancelRequest::One(reqid) => run.request.reqid == *reqid,
                CancelRequest::All => true,
            };
            picked && run.dispatcher == dispatcher
        };
        let mut ids = self.cancel_waiting(&wanted);
        ids.extend(self.runs.cancel(&mut self.reactor, wanted));
        for detached in self.store().supervised(dispatcher) {
            let picked = match which {
                CancelRequest::One(reqid) => detached.reqid == *reqid,
                CancelRequest::All => true,
            };
            let id = RunId {
                reqid: detached.reqid,
                owner: dispatcher.to_owned(),
                script: detached.script,
            };
            if picked && !ids.contains(&id.reqid) && self.end_detached(&id) {
                ids.push(id.reqid);
            }
        }
        let reply = handlers::cancelled(&mut self.state, peer, dispatcher, which, ids);
        self.answer(conn, reply);
    }

    /// Turns away runs that wait for a hook; the hook's word will not matter.
    fn cancel_waiting(&mut self, wanted: &dyn Fn(&Run) -> bool) -> Vec<String> {
        let waiting = self
            .hooks
            .iter()
            .filter_map(|(child, waiting)| match &waiting.intent {
                Intent::Run(run) if wanted(run) => Some(child),
                _ => None,
            });
        let hooks: Vec<ChildId> = waiting.collect();
        let mut ids = Vec::new();
        for child in hooks {
            let Some(Waiting { conn, intent, .. }) = self.hooks.remove(child) else {
                continue;
            };
            self.gone_hooks.insert(child, ());
            self.reactor.kill_group(child);
            if let Intent::Run(run) = intent {
                ids.push(run.request.reqid.clone());
                let reply = handlers::refuse_cancelled(&mut self.state, &run);
                self.answer(conn, reply);
            }
        }
        ids
    }

    /// Tells the supervisor of a detached run to end it. False when it has none.
    fn end_detached(&self, id: &RunId) -> bool {
        self.store().signal_supervisor(id, supervisor::CANCEL)
    }

    /// The store of detached runs.
    fn store(&self) -> Store {
        Store::new(self.state.paths.runs(&self.state.loaded.conf))
    }

    /// Trust, revocation or the allowlist have changed: runs that still wait for something (a
    /// connection to the executor, their supervisor) are judged again. Those that wait for a hook
    /// are when it has answered.
    pub(super) fn judge_waiting(&mut self) {
        for run in self.runs.waiting(&self.reactor) {
            if handlers::recheck(&mut self.state, &run).is_err() {
                let same = |other: &Run| *other == run;
                self.runs.cancel(&mut self.reactor, same);
            }
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
        let env = match hook.environment(std::env::vars_os()) {
            Ok(env) => env,
            Err(denial) => {
                let step = handlers::hook_denied(&mut self.state, peer, intent, denial);
                self.carry_out(conn, peer, step);
                return;
            }
        };
        let spec = ChildSpec {
            env: env.into(),
            stdin: hook.stdin_json().into_bytes(),
            stdin_timeout: timeout.unwrap_or(Duration::from_secs(600)),
            stdout: Output::Null,
            stderr: Output::Null,
            timeout,
            ..ChildSpec::new(program)
        };
        if self.hooks.is_full() || self.gone_hooks.is_full() {
            let step = handlers::hook_done(&mut self.state, peer, intent, HookEnd::NotStarted);
            self.carry_out(conn, peer, step);
            return;
        }
        match self.reactor.spawn(spec) {
            Ok(child) => {
                let peer = peer.clone();
                self.hooks.insert(child, Waiting { conn, peer, intent });
            }
            Err(_) => {
                let step = handlers::hook_done(&mut self.state, peer, intent, HookEnd::NotStarted);
                self.carry_out(conn, peer, step);
            }
        }
    }
}
