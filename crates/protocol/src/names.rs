//! The names that travel between the programs and become parts of file names, and the ports.

/// The port of agents.
pub const AGENT_PORT: u16 = 7443;
/// The port on which a dispatcher pairs.
pub const PAIRING_PORT: u16 = 7444;

/// Longest agent name we take; the reference sets no limit, file systems end at 255 bytes with
/// the `.json` suffix.
pub const MAX_AGENT_NAME: usize = 240;
/// Longest request id we take for a file name.
pub const MAX_REQID: usize = 128;
/// Longest script name we take.
pub const MAX_SCRIPT_NAME: usize = 128;

/// Whether `name` names an agent: first a letter or digit, then `[A-Za-z0-9._-]*`
/// (dispatcher.md §6.1).
pub fn is_agent_name(name: &str) -> bool {
    name.len() <= MAX_AGENT_NAME && starts_alphanumeric(name) && name.bytes().all(is_name_byte)
}

/// Whether `name` may name a script: `[A-Za-z0-9_-]+` (agent.md §2.1).
pub fn is_script_name(name: &str) -> bool {
    is_word(name, MAX_SCRIPT_NAME)
}

/// Whether `id` is usable as a request id in a file name: `[A-Za-z0-9_-]+` (agent.md §5.1).
pub fn is_reqid(id: &str) -> bool {
    is_word(id, MAX_REQID)
}

/// Whether `id` is a pairing queue id: 16 lower-case hex digits (pki-and-pairing.md §7.4).
pub fn is_queue_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `id` names a dispatcher: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}` (agent.md §3.6).
pub fn is_dispatcher_id(id: &str) -> bool {
    id.len() <= 64 && starts_alphanumeric(id) && id.bytes().all(is_name_byte)
}

/// Makes a dispatcher id of any text, as the reference does (pki-and-pairing.md §11).
pub fn sanitize_dispatcher_id(text: &str) -> String {
    let replaced: String = text
        .chars()
        .map(|c| {
            if c.is_ascii() && is_name_byte(c as u8) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let trimmed = replaced.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let cut: String = trimmed.chars().take(64).collect();
    if cut.is_empty() {
        "dispatcher".to_owned()
    } else {
        cut
    }
}

fn starts_alphanumeric(name: &str) -> bool {
    name.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn is_word(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_names() {
        for good in ["a", "web01", "web-01.example.org", "9x", "A_b"] {
            assert!(is_agent_name(good), "{good}");
        }
        for bad in [
            "", ".a", "-a", "_a", "a/b", "../x", "a b", "é", "a\n", "a\0",
        ] {
            assert!(!is_agent_name(bad), "{bad:?}");
        }
        assert!(!is_agent_name(&"a".repeat(MAX_AGENT_NAME + 1)));
    }

    #[test]
    fn words() {
        assert!(is_script_name("check-disk_2"));
        for bad in ["", "a.b", "a/b", "a b", "é", "a\n"] {
            assert!(!is_script_name(bad) && !is_reqid(bad), "{bad:?}");
        }
        assert!(is_queue_id("0123456789abcdef"));
        for bad in [
            "0123456789ABCDEF",
            "0123456789abcde",
            "0123456789abcdef0",
            "../456789abcdef",
        ] {
            assert!(!is_queue_id(bad), "{bad}");
        }
    }

    #[test]
    fn dispatcher_ids() {
        assert_eq!(sanitize_dispatcher_id("has space/slash"), "has-space-slash");
        assert_eq!(sanitize_dispatcher_id("...weird"), "weird");
        assert_eq!(sanitize_dispatcher_id(&"a".repeat(200)), "a".repeat(64));
        assert_eq!(sanitize_dispatcher_id(""), "dispatcher");
        assert_eq!(sanitize_dispatcher_id("é"), "dispatcher");
        for id in ["has-space-slash", "weird", "dispatcher", "a"] {
            assert!(is_dispatcher_id(id));
        }
        assert!(!is_dispatcher_id(&"a".repeat(65)));
    }
}
