//! JSON of any peer.

use ctrl_exec_protocol::json::{Bounds, JsonError, Members, Raw};

const BOUNDS: Bounds = Bounds {
    max_nodes: 64,
    max_depth: 8,
};
const NAMES: [&str; 2] = ["args", "script"];

/// Any bytes are a value within the bounds, which is read again as it was written, or an error
/// that tells a place within the text.
pub fn run(data: &[u8]) {
    let value = match Raw::parse(data, &BOUNDS) {
        Ok(value) => value,
        Err(JsonError::Syntax(fault) | JsonError::TooComplex(fault)) => {
            return assert!(fault.at <= data.len());
        }
        Err(JsonError::NotAnObject) => unreachable!("any value is taken"),
    };
    // Of duplicates only the last is left, so this counts at most what was read.
    assert!(nodes(value) <= BOUNDS.max_nodes && depth(value) <= BOUNDS.max_depth);
    let sorted = value.sorted();
    let again = Raw::parse(sorted.as_bytes(), &BOUNDS).map(Raw::as_str);
    assert_eq!(again, Ok(sorted.as_str()));
    assert!(Raw::parse(value.canonical().as_bytes(), &BOUNDS).is_ok());
    let _ = value.scalar().into_text();
    let members = Members::parse(data, &BOUNDS);
    if !value.is_object() {
        return assert_eq!(members, Err(JsonError::NotAnObject));
    }
    assert_eq!(members.map(|members| members.render()), Ok(sorted));
    let selected = value.select(NAMES);
    for (name, selected) in NAMES.into_iter().zip(selected) {
        assert_eq!(selected, value.get(name));
    }
}

fn nodes(value: Raw<'_>) -> usize {
    let members = value.members().map(|(_, value)| 1 + nodes(value));
    1 + members.sum::<usize>() + value.items().map(nodes).sum::<usize>()
}

fn depth(value: Raw<'_>) -> usize {
    let nested = value.as_str().starts_with(['[', '{']);
    let members = value.members().map(|(_, value)| depth(value));
    let inner = members.chain(value.items().map(depth)).max().unwrap_or(0);
    usize::from(nested) + inner
}
