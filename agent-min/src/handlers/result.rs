//! `GET /result/{reqid}` (agent.md §2.4).

use super::{Peer, Reply, State, Step, not_found, ok};
use crate::runs::store::Store;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::wire::messages::{self, ResultReply};

pub(super) fn request(state: &mut State, peer: &Peer, reqid: &str) -> Step {
    if !names::is_reqid(reqid) {
        return Step::Reply(not_found());
    }
    let dispatcher = match state.trusted(peer, reqid) {
        Ok(id) => id,
        Err(step) => return step,
    };
    let line = |action| {
        Line::new(action)
            .field("PEER", peer.ip)
            .field("DISPATCHER", &dispatcher)
            .field("REQID", reqid)
    };
    let store = Store::new(state.paths.runs(&state.loaded.conf));
    // The text is held twice for a moment: as read, and in the answer.
    let most = u64::from(state.loaded.conf.memory_budget) / 2;
    let stored = match store.settle(&dispatcher, reqid, most) {
        Ok(stored) => stored,
        Err(_) => {
            let body = messages::error_body("result is larger than the agent's memory budget");
            return Step::Reply(Reply { status: 503, body });
        }
    };
    match stored {
        Some(stored) if stored.owner == dispatcher => {
            state.info(line("result").field("STATUS", &stored.status));
            ok(stored.json)
        }
        Some(_) => {
            state.warn(line("result-deny").field("REASON", "not-owner"));
            unknown(reqid)
        }
        None => {
            state.info(line("result-miss"));
            unknown(reqid)
        }
    }
}

fn unknown(reqid: &str) -> Step {
    let reqid = reqid.to_owned();
    let body = ResultReply::Unknown { reqid }.render();
    Step::Reply(Reply { status: 404, body })
}
