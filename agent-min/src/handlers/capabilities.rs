//! `GET /capabilities` (agent.md §2.3).

use super::{Intent, Peer, Reply, State, Step, ok};
use crate::VERSION;
use crate::executable::is_executable;
use ctrl_exec_protocol::hook::{Denial, HookRequest};
use ctrl_exec_protocol::json;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages;

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
    let mut tags = json::object();
    for (key, value) in &loaded.conf.tags {
        tags.str(key, value);
    }
    let mut scripts = Vec::with_capacity(loaded.scripts.scripts.len());
    for (name, script) in &loaded.scripts.scripts {
        let mut entry = json::object();
        entry
            .str("name", name)
            .str("path", &script.path)
            .bool("executable", is_executable(&script.path))
            .str("profile", &script.profile);
        if let Some(schema) = loaded.schema(name) {
            entry
                .raw("schema", &schema.json)
                .str("schema_version", &schema.version);
        }
        scripts.push(entry.finish());
    }
    let body = json::object()
        .str("status", "ok")
        .str("host", &state.host)
        .str("version", VERSION)
        .raw("tags", &tags.finish())
        .raw("scripts", &json::raw_array(&scripts))
        .strings(
            "features",
            &["runs", "cancel", "time_limit"].map(str::to_owned),
        )
        .finish();
    state.info(
        Line::new("capabilities")
            .field("PEER", peer.ip)
            .field("DISPATCHER", dispatcher)
            .field("SCRIPTS", scripts.len()),
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
