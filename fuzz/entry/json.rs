//! JSON of any peer.

use ctrl_exec_protocol::json::{
    Bounds, JsonError, Value, canonical, parse_members, parse_object, parse_value, render,
    scalar_text,
};

const BOUNDS: Bounds = Bounds {
    max_nodes: 64,
    max_depth: 8,
};
const NAMES: [&str; 2] = ["args", "script"];

/// Any bytes are a value within the bounds, which is read again as it was written, or an error
/// that tells a place within the text.
pub fn run(data: &[u8]) {
    let skimmed = parse_members(data, &NAMES, &BOUNDS);
    let value = match parse_value(data, &BOUNDS) {
        Ok(value) => value,
        Err(JsonError::Syntax(fault) | JsonError::TooComplex(fault)) => {
            assert!(fault.at <= data.len());
            return assert!(skimmed.is_err());
        }
        Err(JsonError::NotAnObject) => unreachable!("any value is taken"),
    };
    // Of duplicates only the last is left, so this counts at most what was read.
    assert!(nodes(&value) <= BOUNDS.max_nodes && depth(&value) <= BOUNDS.max_depth);
    assert_eq!(
        parse_value(render(&value).as_bytes(), &BOUNDS).as_ref(),
        Ok(&value)
    );
    let _ = scalar_text(&value);
    let Value::Object(object) = &value else {
        return assert_eq!(skimmed, Err(JsonError::NotAnObject));
    };
    assert!(parse_object(canonical(object).as_bytes(), &BOUNDS).is_ok());
    for name in NAMES {
        assert_eq!(
            skimmed.as_ref().ok().and_then(|some| some.get(name)),
            object.get(name)
        );
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(members) => members.iter().map(|(_, value)| 1 + nodes(value)).sum(),
        _ => 0,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => {
            let inner = members.iter().map(|(_, value)| depth(value));
            1 + inner.max().unwrap_or(0)
        }
        _ => 0,
    }
}
