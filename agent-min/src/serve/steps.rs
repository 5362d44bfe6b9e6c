//! Carrying out the steps of the handlers: answers, hooks, runs; and what follows when a hook or a
//! run has ended.

use super::Server;
use crate::executable::is_executable;
use crate::handlers::{self, Intent, Peer, Step};
use crate::runs::execute;
use crate::runs::in_flight::Ended;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::{HookEnd, HookRequest};
use ctrl_exec_protocol::log_line::Line;
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
            Step::Run(run) => self.runs.start(&mut self.reactor, conf, conn, run),
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
            Ended::Detached { conn, run, started } => (
                conn,
                handlers::async_outcome(&mut self.state, &run, started),
            ),
            Ended::Refused { conn, run, error } => {
                let line = Line::new("overload")
                    .field("PEER", &run.peer_ip)
                    .field("LIVE", self.runs.count(&self.reactor))
                    .field("REASON", error);
                self.log.log(Level::Warning, &line);
                (conn, handlers::refuse_run(&run, error))
            }
        };
        self.answer(conn, reply);
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
        if self.hooks.is_full() {
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
