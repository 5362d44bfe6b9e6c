//! `POST /trust`: CA certificates and a revocation list from a trusted dispatcher.
//!
//! No hook is asked: what is taken is signed by the CA that the agent trusts already, and an agent
//! that refused it would be cut off when that CA ends.

use super::{Peer, State, Step, ok};
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages::{TrustReply, TrustRequest, status_error};
use ctrl_exec_protocol::x509::crl::Crl;
use ctrl_exec_protocol::x509::handover;
use std::path::Path;

pub(super) fn request(state: &mut State, peer: &Peer, body: &[u8]) -> Step {
    let dispatcher = match state.trusted(peer, "(none)") {
        Ok(id) => id,
        Err(step) => return step,
    };
    let TrustRequest { ca, crl } = TrustRequest::parse(body);
    let taken = take_ca(state, &ca).and_then(|()| take_crl(state, &dispatcher, &crl));
    let line = Line::new("trust")
        .field("DISPATCHER", &dispatcher)
        .field("PEER", peer.ip);
    match taken {
        Ok(()) => {
            let reply = TrustReply {
                ca: state.loaded.identity.ca.clone(),
                crl: state.loaded.revoked.list_number(&dispatcher),
            };
            state.info(line.field("CA", &reply.ca).field("CRL", reply.crl));
            ok(reply.render())
        }
        Err(error) => {
            state.warn(line.field("ERROR", &error));
            ok(status_error(&error))
        }
    }
}

/// Keeps CA certificates, then trusts by them.
fn take_ca(state: &mut State, ca: &str) -> Result<(), String> {
    if ca.is_empty() || handover::fingerprint(ca) == state.loaded.identity.ca {
        return Ok(());
    }
    let files = state.loaded.files();
    let own = crate::trust::read_bounded(&files.ca).ok().flatten();
    // Not those in force: what root put there is what vouches, whatever lies in our own directory.
    handover::admit(&own.unwrap_or_default(), ca)?;
    handover::goes_on(&files.ca_text().ok().flatten().unwrap_or_default(), ca)?;
    let Some(place) = files.handed else {
        return Err("a pairing waits for a start of the agent's service".to_owned());
    };
    write(&place, ca)?;
    let taken = state.loaded.take_ca(&state.paths);
    taken.map_err(|error| error.to_string())
}

/// Keeps a dispatcher's revocation list, then revokes by it. One that is older than that kept is a
/// replay.
fn take_crl(state: &mut State, dispatcher: &str, crl: &str) -> Result<(), String> {
    if crl.is_empty() {
        return Ok(());
    }
    let list = Crl::from_pem(crl)?;
    let loaded = &mut state.loaded;
    let kept = loaded.revoked.list_number(dispatcher);
    if list.number() < kept {
        return Err("older than the revocation list kept here".to_owned());
    }
    if list.number() == kept {
        return Ok(());
    }
    if !list.verify(&loaded.identity.chain, loaded.now()) {
        return Err("the CA did not sign this revocation list".to_owned());
    }
    if loaded.revoked.is_full(dispatcher) {
        return Err("too many dispatchers with revocation lists".to_owned());
    }
    write(&state.paths.crl(dispatcher), crl)?;
    loaded.revoked.take_list(dispatcher, list);
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    durable::write(path, text.as_bytes(), &Perm::mode(0o644)).map_err(|error| error.to_string())
}
