//! `POST /ping` (agent.md §2.2).

use super::{FEATURES, Peer, State, Step, ok};
use crate::VERSION;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{PingReply, reqid_of};

pub(super) fn request(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    if let Err(step) = state.admit(peer, "(none)") {
        return step;
    }
    let reqid = reqid_of(body);
    let dispatcher = state.loaded.trusted.owner(&peer.serial);
    let line = Line::new("ping")
        .field("PEER", peer.ip)
        .field("DISPATCHER", dispatcher.unwrap_or_default())
        .field("REQID", &reqid);
    let crl = state
        .loaded
        .revoked
        .list_number(dispatcher.unwrap_or_default());
    state.info(line);
    let reply = PingReply {
        host: state.host.as_str().into(),
        version: VERSION.into(),
        expiry: state.loaded.expiry().into(),
        staged: state.loaded.staged.is_file(),
        features: FEATURES,
        ca: state.loaded.identity.ca.as_str().into(),
        crl,
        reqid: reqid.into(),
    };
    ok(reply.render())
}
