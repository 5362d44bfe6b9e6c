//! Host words as people type them.

use ctrl_exec_protocol::names::AGENT_PORT;

/// Splits `name:digits` at the last colon. Digits out of range are the default port, given
/// explicitly; anything else after a colon belongs to the name.
pub fn split(word: &str) -> (&str, Option<u16>) {
    match word.rsplit_once(':') {
        Some((name, digits))
            if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            let port = digits.parse().ok().filter(|port| *port != 0);
            (name, Some(port.unwrap_or(AGENT_PORT)))
        }
        _ => (word, None),
    }
}
