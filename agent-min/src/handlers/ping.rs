//! `POST /ping` (agent.md §2.2).

use super::{Peer, State, Step, ok};
use crate::VERSION;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{PingReply, reqid_of};

pub(super) fn request(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    let dispatcher = match state.trusted(peer, "(none)") {
        Ok(id) => id,
        Err(step) => return step,
    };
    let reqid = reqid_of(body);
    state.info(
        Line::new("ping")
            .field("PEER", peer.ip)
            .field("DISPATCHER", dispatcher)
            .field("REQID", &reqid),
    );
    let reply = PingReply {
        host: state.host.clone(),
        version: VERSION.to_owned(),
        expiry: state.loaded.expiry().to_owned(),
        staged: state.paths.staged(&state.loaded.conf).is_file(),
        reqid,
    };
    ok(reply.render())
}
