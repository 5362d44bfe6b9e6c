//! `POST /rotate-serial` (agent.md §2.5).

use super::{Intent, Peer, Reply, State, Step, ok};
use crate::identity::install;
use crate::trust::{TrustError, TrustMap};
use ctrl_exec_protocol::hook::{Denial, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::serial;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{RotateReply, RotateRequest, error_body, status_error};

pub(super) fn request(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    let dispatcher = match state.trusted(peer, "(none)") {
        Ok(id) => id,
        Err(step) => return step,
    };
    let request = RotateRequest::parse(body);
    if request.serial.is_empty() {
        return ok(status_error("serial required"));
    }
    if !matches!(request.action.as_str(), "add" | "remove") {
        return ok(status_error(&format!(
            "invalid action '{}'",
            request.action
        )));
    }
    if !state.hook() {
        return allowed(state, peer, &request);
    }
    let hook = HookRequest {
        action: "rotate",
        args: vec![request.action.clone(), request.serial.clone()],
        token: request.token.clone(),
        source_ip: peer.ip.to_string(),
        dispatcher,
        dispatcher_serial: peer.serial.as_ref().to_owned(),
        timestamp: Utc::now().iso(),
        ..HookRequest::default()
    };
    Step::AskHook(Box::new(hook), Intent::Rotate(request))
}

pub(super) fn allowed(state: &mut State, peer: &Peer, request: &RotateRequest) -> Step {
    // The map may have changed while the hook decided.
    let dispatcher = match state.trusted(peer, "(none)") {
        Ok(id) => id,
        Err(step) => return step,
    };
    if let Err(error) = change(state, request, &dispatcher) {
        state.error(
            Line::new("rotate-fail")
                .field("DISPATCHER", &dispatcher)
                .field("ERROR", &error),
        );
        return ok(status_error(&error.to_string()));
    }
    state.info(
        Line::new("rotate")
            .field("DISPATCHER", &dispatcher)
            .field("SERIAL_ACTION", &request.action)
            .field("SERIAL", &request.serial)
            .field("PEER", peer.ip),
    );
    let reply = RotateReply {
        action: request.action.clone(),
        serial: request.serial.clone(),
        dispatcher,
    };
    ok(reply.render())
}

pub(super) fn denied(state: &mut State, peer: &Peer, denial: &Denial) -> Step {
    let dispatcher = state.dispatcher(peer).unwrap_or_default();
    state.warn(
        Line::new("rotate-deny")
            .field("DISPATCHER", dispatcher)
            .field("REASON", &denial.reason),
    );
    let body = error_body(&format!("not authorised: {}", denial.reason));
    Step::Reply(Reply { status: 403, body })
}

/// Edits the map as it is on disk, and takes over what was written. The trust of a pairing whose
/// files wait for root counts as if it were in the map.
fn change(state: &mut State, request: &RotateRequest, dispatcher: &str) -> Result<(), TrustError> {
    let path = state.paths.map(&state.loaded.conf);
    let mut map = TrustMap::load(&path).map_err(TrustError::Io)?;
    let before = map.clone();
    let serial = &request.serial;
    if let Some((pending, id)) = install::pending_trust(&state.paths) {
        let same = serial::of_wire(serial) == serial::of_wire(&pending);
        match (same, request.action == "add", id == dispatcher) {
            (false, ..) | (true, true, true) => {}
            (true, true, false) => return Err(TrustError::Taken),
            (true, false, true) => return Err(TrustError::Pending),
            (true, false, false) => return Err(TrustError::NotOwned(dispatcher.to_owned())),
        }
    }
    match request.action.as_str() {
        "add" => map.add(serial, dispatcher)?,
        _ => map.remove(serial, dispatcher)?,
    }
    if map != before {
        map.store(&path)?;
    }
    install::add_pending_trust(&state.paths, &mut map);
    state.loaded.trusted = map;
    Ok(())
}
