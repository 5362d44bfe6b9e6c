//! Schema sidecars: what a script says about itself (agent.md §6).
//!
//! For allowlist path `P` the sidecar is `P.schema.json`. The agent interprets only `version`;
//! the rest is advertised unchanged. Only the rendered text is kept.

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::json::{Bounds, JsonError, Raw};
use ctrl_exec_protocol::serial;
use ring::digest::{SHA256, digest};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Largest sidecar, in bytes.
pub const MAX_BYTES: usize = 65_536;
/// As many values as fit into so many bytes.
const BOUNDS: Bounds = Bounds {
    max_nodes: MAX_BYTES,
    max_depth: 64,
};

/// A usable sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The document as compact JSON.
    pub json: String,
    /// Its version: the explicit one, or `sha256:` and 12 hex digits.
    pub version: String,
    /// True when an explicit version was unusable and the version was derived (a warning).
    pub derived_over_bad: bool,
}

/// Text of the `schema-version-derive` warning.
pub const DERIVE_REASON: &str = "explicit version invalid or reserved - deriving hash";

/// Reads the sidecar of the script at `script_path`. `Ok(None)` when there is none; an error is
/// the REASON of `schema-skip`.
///
/// # Errors
/// The sidecar is too large, unreadable, not JSON or not an object.
pub fn load(script_path: &str) -> Result<Option<Schema>, String> {
    let name = format!("{script_path}.schema.json");
    let bytes = match read(Path::new(&name)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(reason) => return Err(reason),
    };
    parse(&bytes).map(Some)
}

/// Checks and renders the text of a sidecar.
///
/// # Errors
/// As for [`load`].
pub fn parse(text: &[u8]) -> Result<Schema, String> {
    let document = Raw::parse(text, &BOUNDS).map_err(|error| format!("invalid JSON: {error}"))?;
    if !document.is_object() {
        return Err(JsonError::NotAnObject.to_string());
    }
    let explicit = document.get("version").and_then(|version| {
        let number = version.is_number().then(|| version.as_str().to_owned());
        version.string().or(number)
    });
    let is_given = explicit.is_some();
    let usable = explicit.filter(|text| is_version(text));
    Ok(Schema {
        json: document.sorted(),
        derived_over_bad: is_given && usable.is_none(),
        version: usable.unwrap_or_else(|| derived(document)),
    })
}

fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn derived(document: Raw<'_>) -> String {
    let hash = digest(&SHA256, &hash_bytes(document.canonical()));
    format!("sha256:{}", serial::hex(hash.as_ref()[..6].iter()))
}

/// The bytes the reference hashes for a canonical text: Latin-1 if every character fits, else
/// UTF-8.
fn hash_bytes(canonical: String) -> Vec<u8> {
    let latin1 = canonical.chars().map(|c| u8::try_from(u32::from(c)).ok());
    match latin1.collect() {
        Some(bytes) => bytes,
        None => canonical.into_bytes(),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    Bounded::new(MAX_BYTES as u64)
        .optional(path)
        .map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => {
                // What came is the least that it can be, should it have gone meanwhile.
                let size = fs::metadata(path).map_or(0, |meta| meta.len());
                let size = size.max(MAX_BYTES as u64 + 1);
                format!("oversize: {size} > {MAX_BYTES} bytes")
            }
            _ => format!("cannot read: {error}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_references() {
        for (text, version) in [
            (
                r#"{"description":"x","arguments":{"type":"object"}}"#,
                "sha256:aae5c09d0346",
            ),
            (r#"{"description":"caf\u00e9"}"#, "sha256:7332daa797cf"),
            (
                "{\"description\":\"caf\u{e9}\u{2028}\"}",
                "sha256:9e9a7114c602",
            ),
        ] {
            assert_eq!(
                parse(text.as_bytes()).expect("valid").version,
                version,
                "{text}"
            );
        }
    }

    #[test]
    fn explicit_versions_are_taken_when_they_look_like_one() {
        let version = |text: &str| parse(text.as_bytes()).expect("valid");
        assert_eq!(version(r#"{"version":"2"}"#).version, "2");
        assert_eq!(version(r#"{"version":1.5}"#).version, "1.5");
        for bad in [
            r#"{"version":"sha256:aaaaaaaaaaaa"}"#,
            r#"{"version":"a b"}"#,
            r#"{"version":""}"#,
        ] {
            let schema = version(bad);
            assert!(
                schema.version.starts_with("sha256:") && schema.derived_over_bad,
                "{bad}"
            );
        }
        for silent in [
            r#"{"version":null}"#,
            r#"{"version":[1]}"#,
            r#"{"version":true}"#,
            "{}",
        ] {
            assert!(!version(silent).derived_over_bad, "{silent}");
        }
    }

    #[test]
    fn unusable_sidecars_say_why() {
        assert_eq!(parse(b"[1]"), Err("not a JSON object".into()));
        assert_eq!(
            parse(b"{nope"),
            Err("invalid JSON: expected a member name at byte 1".into())
        );
        assert_eq!(
            parse(b"{\"a\":\"\xe9\"}"),
            Err("invalid JSON: not UTF-8 at byte 6".into())
        );
        assert!(parse(&b"{\"a\":".repeat(9_000)).is_err_and(|e| e.contains("too deeply")));
        let dir = std::env::temp_dir().join(format!("ctrl-exec-schema-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        let script = dir.join("big");
        let script = script.to_str().expect("utf-8");
        assert_eq!(load(script), Ok(None));
        std::fs::write(format!("{script}.schema.json"), vec![b' '; 70_000]).expect("write");
        assert_eq!(load(script), Err("oversize: 70000 > 65536 bytes".into()));
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
