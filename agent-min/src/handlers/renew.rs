//! `POST /renew` and `POST /renew-complete` (agent.md §2.6, §2.7, §10).
//!
//! Unlike the reference both need a trusted dispatcher (DEVIATE): its dispatcher renews only after
//! a ping that was answered, so nothing that works today is refused.

use super::{Peer, State, Step, ok};
use crate::identity::{renewal, staging};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{
    RenewCompleteReply, RenewCompleteRequest, RenewReply, reqid_of, status_error,
};

pub(super) fn request(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    if let Err(step) = state.trusted(peer, "(none)") {
        return step;
    }
    let reqid = reqid_of(body);
    let line = Line::new("renew")
        .field("PEER", peer.ip)
        .field("REQID", &reqid);
    let cn = state.loaded.common_name().unwrap_or(&state.host);
    match renewal::request(&state.loaded.files().key, cn) {
        Ok(csr) => {
            state.info(line.field("STATUS", "csr-generated"));
            ok(RenewReply { csr, reqid }.render())
        }
        Err(error) => {
            state.error(line.field("ERROR", &error.cause));
            ok(status_error(error.answer))
        }
    }
}

pub(super) fn complete(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    if let Err(step) = state.trusted(peer, "(none)") {
        return step;
    }
    let RenewCompleteRequest { cert, reqid, .. } = RenewCompleteRequest::parse(body);
    if cert.is_empty() {
        return ok(status_error("cert required"));
    }
    let line = Line::new("renew-complete")
        .field("PEER", peer.ip)
        .field("REQID", &reqid);
    let target = state.loaded.staged.clone();
    let result = staging::validate(&state.loaded.files(), &cert, &state.loaded.identity.clock)
        .and_then(|()| staging::stage(&target, &cert));
    match result {
        Ok(()) => {
            state.info(line.field("STATUS", "cert-staged"));
            ok(RenewCompleteReply { reqid }.render())
        }
        Err(error) => {
            state.error(line.field("ERROR", &error));
            ok(status_error(&error))
        }
    }
}
