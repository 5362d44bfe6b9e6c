//! The agent's lists of whom it trusts and whom it does not, which operators edit and crashes cut.

use ctrl_exec_agent::trust::{Revoked, TrustMap};

/// Any text is a map and a list; nobody without a serial is on either.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let map = TrustMap::parse(&text);
    let revoked = Revoked::parse(&text);
    assert_eq!(map.owner(""), None);
    assert!(!revoked.contains(""));
    for line in text.lines() {
        let serial = line.split_whitespace().next().unwrap_or_default();
        // Whatever a line begins with is looked up as a caller's serial.
        let _ = (map.owner(serial), revoked.contains(serial));
    }
}
