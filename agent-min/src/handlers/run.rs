//! `POST /run` (agent.md §2.1, §4, §5.1).

use super::{Call, Intent, Peer, Reply, State, Step, ok};
use crate::runs::outcome::Outcome;
use crate::runs::run::Run;
use ctrl_exec_protocol::config::ArgumentText;
use ctrl_exec_protocol::config::decision;
use ctrl_exec_protocol::hook::{Denial, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{
    AsyncReply, Ending, Output, RunReply, RunRequest, RunRequestError, refusal_of_busy, run_refusal,
};

pub(super) fn request(state: &mut State, peer: &Peer, call: Call<'_>) -> Step {
    let dispatcher = match state.trusted(peer, "(none)") {
        Ok(id) => id,
        Err(step) => return step,
    };
    let request = match RunRequest::parse(call.body) {
        Ok(request) => request,
        Err(RunRequestError::InvalidArgs { reqid, error }) => {
            return ok(run_refusal(None, error, Some(&reqid)));
        }
        Err(error) => return ok(run_refusal(None, &error.to_string(), None)),
    };
    let Some(path) = permitted(state, &request.script) else {
        state.warn(
            Line::new("deny")
                .field("SCRIPT", &request.script)
                .field("PEER", peer.ip)
                .field("REQID", &request.reqid),
        );
        return ok(run_refusal(
            Some(&request.script),
            "script not permitted",
            Some(&request.reqid),
        ));
    };
    let run = Box::new(Run {
        path,
        dispatcher,
        peer_ip: peer.ip.to_string(),
        serial: peer.serial.clone(),
        byte_args: match state.loaded.conf.argument_text {
            ArgumentText::Auto => call.from_perl,
            ArgumentText::Utf8 => false,
            ArgumentText::Bytes => true,
        },
        request,
    });
    if !state.hook() {
        return start(run);
    }
    let hook = HookRequest {
        action: "run",
        script: run.request.script.clone(),
        args: run.request.args.clone(),
        username: run.request.username.clone(),
        token: run.request.token.clone(),
        source_ip: run.peer_ip.clone(),
        dispatcher: run.dispatcher.clone(),
        dispatcher_serial: peer.serial.as_ref().to_owned(),
        timestamp: Utc::now().iso(),
        ..HookRequest::default()
    };
    Step::AskHook(Box::new(hook), Intent::Run(run))
}

/// The hook has consented. Meanwhile the world may have changed.
pub(super) fn allowed(state: &mut State, run: Box<Run>) -> Step {
    match recheck(state, &run) {
        Ok(path) => start(Box::new(Run { path, ..*run })),
        Err(reply) => Step::Reply(reply),
    }
}

/// Looks again at what a run was allowed by: revocation, trust, allowlist. Called whenever a run
/// has waited for something. The result is the script's path as of now.
///
/// # Errors
/// The answer to a run that may not start any more.
pub fn recheck(state: &mut State, run: &Run) -> Result<String, Reply> {
    let (serial, reqid) = (&run.serial, &run.request.reqid);
    let line = |action| {
        Line::new(action)
            .field("PEER", &run.peer_ip)
            .field("REQID", reqid)
    };
    if state.loaded.revoked.contains(serial) {
        state.warn(line("revoked-cert").field("SERIAL", serial));
        return Err(super::revoked_reply());
    }
    if state.loaded.trusted.owner(serial) != Some(run.dispatcher.as_str()) {
        state.warn(line("serial-reject").field("PEER_SERIAL", serial));
        return Err(super::mismatch_reply());
    }
    permitted(state, &run.request.script).ok_or_else(|| {
        state.warn(line("deny").field("SCRIPT", &run.request.script));
        refuse_run(run, "script not permitted")
    })
}

fn start(run: Box<Run>) -> Step {
    if !run.request.run_async {
        return Step::Run(run);
    }
    if !names::is_reqid(&run.request.reqid) {
        return Step::Reply(refuse_run(&run, "async run requires a valid reqid"));
    }
    Step::RunAsync(run)
}

pub(super) fn denied(state: &mut State, peer: &Peer, run: &Run, denial: &Denial) -> Step {
    state.warn(
        Line::new("deny")
            .field("SCRIPT", &run.request.script)
            .field("PEER", peer.ip)
            .field("REQID", &run.request.reqid)
            .field("REASON", &denial.reason)
            .field("DISPATCHER", &run.dispatcher),
    );
    Step::Reply(refuse_run(
        run,
        &format!("not authorised: {}", denial.reason),
    ))
}

/// The answer to a run that is not started.
pub fn refuse_run(run: &Run, error: &str) -> Reply {
    let body = run_refusal(Some(&run.request.script), error, Some(&run.request.reqid));
    Reply { status: 200, body }
}

/// The answer to a run that would be one too many.
pub fn refuse_busy(run: &Run, error: &str) -> Reply {
    Reply {
        status: 200,
        body: refusal_of_busy(&run.request.script, error, &run.request.reqid),
    }
}

/// The answer to a run that was cancelled before it began.
pub fn refuse_cancelled(state: &mut State, run: &Run) -> Reply {
    state.info(
        Line::new("run-cancelled")
            .field("SCRIPT", &run.request.script)
            .field("PEER", &run.peer_ip)
            .field("DISPATCHER", &run.dispatcher)
            .field("REQID", &run.request.reqid),
    );
    refuse_run(run, "cancelled before it began; nothing ran")
}

/// The answer to a run that has ended.
pub fn run_outcome(state: &mut State, run: &Run, outcome: Outcome) -> Reply {
    state.info(
        Line::new("run")
            .field("SCRIPT", &run.request.script)
            .field("EXIT", outcome.exit)
            .field("PEER", &run.peer_ip)
            .field("DISPATCHER", &run.dispatcher)
            .field("REQID", &run.request.reqid),
    );
    let ending = outcome.ending;
    if ending != Ending::default() {
        let mut line = Line::new("run-ended").field("REQID", &run.request.reqid);
        if let Some(signal) = ending.signal {
            line = line.field("SIGNAL", signal);
        }
        let reason = [
            (ending.cancelled, "cancelled"),
            (ending.time_limit, "time-limit"),
            (ending.oom, "out-of-memory"),
        ];
        if let Some((_, reason)) = reason.into_iter().find(|(is, _)| *is) {
            line = line.field("REASON", reason);
        }
        state.warn(line);
    }
    let reply = RunReply {
        ending,
        script: run.request.script.clone(),
        exit: outcome.exit,
        stdout: Output {
            text: outcome.stdout,
            dropped: outcome.dropped.0,
            gap_at: outcome.gaps.0,
        },
        stderr: Output {
            text: outcome.stderr,
            dropped: outcome.dropped.1,
            gap_at: outcome.gaps.1,
        },
        reqid: run.request.reqid.clone(),
    };
    Reply {
        status: 200,
        body: reply.render(),
    }
}

/// The answer to an async submission, by how starting its supervisor went.
pub fn async_outcome(state: &mut State, run: &Run, started: Result<bool, String>) -> Reply {
    let line = |action| {
        Line::new(action)
            .field("SCRIPT", &run.request.script)
            .field("PEER", &run.peer_ip)
            .field("REQID", &run.request.reqid)
    };
    let body = |reply: AsyncReply| reply.render(&run.request.script, &run.request.reqid);
    match started {
        Ok(true) => {
            state.info(line("run-async").field("DISPATCHER", &run.dispatcher));
            let body = body(AsyncReply::Accepted);
            Reply { status: 202, body }
        }
        Ok(false) => {
            state.warn(line("run-async-busy"));
            let error = "script already running".to_owned();
            let body = body(AsyncReply::Busy { error });
            Reply { status: 409, body }
        }
        Err(error) => {
            state.error(
                Line::new("async-store-fail")
                    .field("REQID", &run.request.reqid)
                    .field("ERROR", &error),
            );
            refuse_run(run, &format!("could not start async job: {error}"))
        }
    }
}

/// The path of a script that may run now.
fn permitted(state: &State, name: &str) -> Option<String> {
    if !names::is_script_name(name) {
        return None;
    }
    let loaded = &state.loaded;
    let realpath = |path: &std::path::Path| std::fs::canonicalize(path).ok();
    let located = decision::locate(&loaded.conf, &loaded.scripts, name, &realpath).ok()?;
    // What was judged is what runs. A path that is not UTF-8 cannot be passed on, so it is refused.
    located.real.into_os_string().into_string().ok()
}
