//! Looking into JSON bodies.

use ctrl_exec_protocol::json::{self, Bounds, Object};

/// The object that a body holds.
pub fn object(body: &str) -> Object {
    json::parse_object(body.as_bytes(), &Bounds::ANSWER)
        .unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// A member as text; empty when it is not there.
pub fn text(body: &str, key: &str) -> String {
    json::text_of(&object(body), key)
}

/// A member that must be an integer.
pub fn int(body: &str, key: &str) -> i64 {
    json::int_of(&object(body), key).unwrap_or_else(|| panic!("no integer {key}: {body}"))
}
