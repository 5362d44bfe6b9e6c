//! `GET /runs` and `POST /cancel`: a dispatcher's own runs, which it may see and end whatever a hook
//! thinks of new ones.

use super::{Peer, Reply, State, Step, ok};
use crate::runs::lock::since_boot;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{
    CancelReply, CancelRequest, RunningScript, RunsReply, error_body, status_error,
};

pub(super) fn runs(state: &mut State, peer: &Peer) -> Step {
    match state.trusted(peer, "(none)") {
        Ok(dispatcher) => Step::ListRuns(dispatcher),
        Err(step) => step,
    }
}

pub(super) fn cancel(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    let dispatcher = match state.trusted(peer, "(none)") {
        Ok(id) => id,
        Err(step) => return step,
    };
    match CancelRequest::parse(body) {
        Ok(which) => Step::Cancel(dispatcher, which),
        Err(error) => ok(status_error(error)),
    }
}

/// The answer to `GET /runs`.
pub fn runs_listed(state: &State, runs: Vec<RunningScript>) -> Reply {
    let up = since_boot();
    let reply = RunsReply {
        serving: Some(up.saturating_sub(state.started)),
        up: Some(up),
        host: state.host.clone(),
        runs,
    };
    Reply {
        status: 200,
        body: reply.render(),
    }
}

/// The answer to `POST /cancel`. A run that has ended and one of another dispatcher are told apart
/// from nothing: there is no such run.
pub fn cancelled(
    state: &mut State,
    peer: &Peer,
    dispatcher: &str,
    which: &CancelRequest,
    cancelled: Vec<String>,
) -> Reply {
    let line = Line::new("cancel")
        .field("PEER", peer.ip)
        .field("DISPATCHER", dispatcher);
    if let (CancelRequest::One(reqid), true) = (which, cancelled.is_empty()) {
        state.info(line.field("REQID", reqid).field("RESULT", "no-such-run"));
        return Reply {
            status: 404,
            body: error_body("no such run"),
        };
    }
    let ids = cancelled.join(",");
    state.info(line.field("REQID", ids).field("RESULT", "ok"));
    let reply = CancelReply { cancelled };
    Reply {
        status: 200,
        body: reply.render(),
    }
}
