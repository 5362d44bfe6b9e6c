//! `GET /capabilities` (agent.md §2.3).

use super::{FEATURES, Intent, Peer, Reply, State, Step, ok};
use crate::VERSION;
use crate::executable::is_executable;
use ctrl_exec_protocol::hook::{Denial, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{self, CapabilitiesReply, ScriptEntry};

pub(super) fn request(state: &mut State, peer: &Peer) -> Step {
    let dispatcher = match trusted(state, peer) {
        Ok(dispatcher) => dispatcher,
        Err(step) => return step,
    };
    if !state.hook() {
        return answer(state, peer, &dispatcher);
    }
    let hook = HookRequest {
        action: "discovery",
        source_ip: peer.ip.to_string(),
        dispatcher,
        dispatcher_serial: peer.serial.as_ref().to_owned(),
        timestamp: Utc::now().iso(),
        ..HookRequest::default()
    };
    Step::AskHook(Box::new(hook), Intent::Capabilities)
}

/// The hook has consented; trust may have ended meanwhile.
pub(super) fn allowed(state: &mut State, peer: &Peer) -> Step {
    match trusted(state, peer) {
        Ok(dispatcher) => answer(state, peer, &dispatcher),
        Err(step) => step,
    }
}

fn trusted(state: &mut State, peer: &Peer) -> Result<String, Step> {
    let Some(dispatcher) = state.dispatcher(peer) else {
        let reason = match state.loaded.trusted.is_empty() {
            true => "no trusted dispatchers stored",
            false => "serial-mismatch",
        };
        state.warn(
            Line::new("capabilities-deny")
                .field("PEER", peer.ip)
                .field("PEER_SERIAL", &peer.serial)
                .field("REASON", reason),
        );
        return Err(Step::Reply(Reply {
            status: 403,
            body: messages::error_body("forbidden"),
        }));
    };
    Ok(dispatcher)
}

fn answer(state: &mut State, peer: &Peer, dispatcher: &str) -> Step {
    let loaded = &state.loaded;
    let mut tags = Vec::new();
    for (key, value) in &loaded.conf.tags {
        tags.push((key.as_str().into(), value.as_str().into()));
    }
    let mut scripts = Vec::with_capacity(loaded.scripts.scripts.len());
    for (name, script) in &loaded.scripts.scripts {
        scripts.push(ScriptEntry {
            name: name.as_str().into(),
            path: script.path.as_str().into(),
            executable: is_executable(&script.path),
            profile: script.profile.as_str().into(),
            schema: loaded
                .schema(name)
                .map(|schema| (schema.json.as_str(), schema.version.as_str().into())),
        });
    }
    let count = scripts.len();
    let reply = CapabilitiesReply {
        host: state.host.as_str().into(),
        version: VERSION.into(),
        tags,
        scripts,
        features: FEATURES,
    };
    let body = reply.render();
    state.info(
        Line::new("capabilities")
            .field("PEER", peer.ip)
            .field("DISPATCHER", dispatcher)
            .field("SCRIPTS", count),
    );
    ok(body)
}

pub(super) fn denied(state: &mut State, peer: &Peer, denial: &Denial) -> Step {
    let dispatcher = state.dispatcher(peer).unwrap_or_default();
    state.warn(
        Line::new("capabilities-deny")
            .field("PEER", peer.ip)
            .field("DISPATCHER", dispatcher)
            .field("REASON", &denial.reason),
    );
    Step::Reply(Reply {
        status: 403,
        body: messages::error_body("not authorised"),
    })
}
