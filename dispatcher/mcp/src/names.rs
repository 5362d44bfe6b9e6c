//! Names of tools: what every client takes, one for each script and version, never two alike.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Longest name of a tool.
pub const MAX_NAME: usize = 64;

/// What the bridge's own tools are called.
pub const OWN: [&str; 3] = ["list_scripts", "run_script", "run_status"];

/// What stands before the digest in the name of a script of several versions.
const MARK: &str = "--v";

/// Hexadecimal digits of the digest in a name.
const DIGITS: usize = 12;

/// The name of a tool for `script`. `identity` tells versions apart: it is the script's sidecar and
/// version. `alone` says that the fleet has only this one.
///
/// A script's own name is kept where it can be; otherwise a digest of name and identity follows it.
/// A script whose own name looks like that gets a digest, too, so that no two names are alike.
pub fn tool_name(script: &str, identity: &str, alone: bool) -> String {
    let plain = script.len() <= MAX_NAME
        && !script.is_empty()
        && script
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && !OWN.contains(&script)
        && !looks_made(script);
    if alone && plain {
        return script.to_owned();
    }
    let mut digest = Sha256::new();
    digest.update((script.len() as u64).to_be_bytes());
    digest.update(script.as_bytes());
    digest.update(identity.as_bytes());
    let mut name: String = script
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b == b'_' || b == b'-' {
                b as char
            } else {
                '_'
            }
        })
        .take(MAX_NAME - MARK.len() - DIGITS)
        .collect();
    name.push_str(MARK);
    for byte in digest.finalize().iter().take(DIGITS / 2) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// True when `script` ends as the names made here do.
fn looks_made(script: &str) -> bool {
    script.rsplit_once(MARK).is_some_and(|(_, digits)| {
        digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_scripts_own_name_is_kept_where_it_can_be() {
        assert_eq!(tool_name("router-status", "1", true), "router-status");
        for (script, alone) in [
            ("router-status", false),
            ("run_status", true),
            ("a.b", true),
            ("", true),
            (&"x".repeat(65), true),
            ("x--v0123456789ab", true),
        ] {
            let name = tool_name(script, "1", alone);
            assert_ne!(name, script);
            assert!(looks_made(&name) && name.len() <= MAX_NAME, "{name}");
            assert_eq!(name, tool_name(script, "1", alone), "stable");
        }
    }

    #[test]
    fn names_are_injective() {
        let scripts = [
            "a",
            "a--v0123456789ab",
            "a.b",
            "a_b",
            "unversioned",
            &"y".repeat(80),
            &"y".repeat(81),
        ];
        let mut seen = HashSet::new();
        for script in scripts {
            assert!(seen.insert(tool_name(script, "only", true)), "{script}");
            for identity in ["", "1", "sha256:0123", "unversioned"] {
                assert!(
                    seen.insert(tool_name(script, identity, false)),
                    "{script} {identity}"
                );
            }
        }
    }
}
