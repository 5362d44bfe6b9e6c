//! A file of the pairing queue, which a whole group may write.

use ctrl_exec_dispatcher::model::Queued;
use ctrl_exec_protocol::{names, wire::pairing};

/// Any bytes are a request whose code is that of its text, or nothing.
pub fn run(data: &[u8]) {
    let id = "0123456789abcdef";
    let Some(queued) = Queued::parse(id, data) else {
        return;
    };
    assert!(names::is_agent_name(&queued.hostname));
    assert_eq!(queued.code, pairing::code(&queued.csr));
    let again = Queued::parse(id, queued.to_json().as_bytes());
    assert_eq!(again, Some(queued));
}
