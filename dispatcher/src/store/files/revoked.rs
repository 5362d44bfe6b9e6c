//! The dispatcher's own revocation list: certificates that no agent may show us any more. The
//! reference has none, so that a decommissioned agent's certificate could pose as any other agent
//! for years.

use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::paths::Root;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

/// Where the list is, below the root. One serial a line, lower-case hex; `#` starts a comment.
pub const PATH: &str = "/var/lib/ctrl-exec/revoked-serials";

/// The list of this dispatcher.
pub fn path(root: &Root) -> PathBuf {
    root.path(PATH)
}

/// Serials no agent may show. A missing list is empty; one that cannot be read is an error, as
/// going on without it would let the revoked in.
pub fn load(root: &Root) -> io::Result<HashSet<String>> {
    match std::fs::read_to_string(path(root)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error),
    }
}

/// Adds a serial, with a comment of who it was.
pub fn add(root: &Root, serial: &str, name: &str) -> io::Result<()> {
    let path = path(root);
    if let Some(dir) = path.parent() {
        crate::store::files::dirs::ensure(dir)?;
    }
    let mut text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if parse(&text).contains(&normal(serial)) {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{} # {name}\n", normal(serial)));
    durable::write(&path, text.as_bytes(), &Perm::mode(0o644))
}

/// The form serials are compared in: lower-case hex without leading zeros, always read as hex.
pub fn normal(serial: &str) -> String {
    let hex = serial.to_ascii_lowercase().replace(':', "");
    let hex = hex.trim();
    let bare = hex.trim_start_matches(|c: char| c == '0' || c.is_whitespace());
    if bare.is_empty() && !hex.is_empty() {
        "0".to_owned()
    } else {
        bare.to_owned()
    }
}

fn parse(text: &str) -> HashSet<String> {
    text.lines()
        .map(|line| normal(line.split('#').next().unwrap_or_default()))
        .filter(|serial| !serial.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn added_serials_are_found_in_any_spelling() {
        let dir = TempDir::new();
        let root = Root::at(dir.path());
        assert!(load(&root).unwrap().is_empty());
        add(&root, "00AB:10", "a").unwrap();
        add(&root, "ab10", "a").unwrap();
        add(&root, "16", "b").unwrap();
        let text = std::fs::read_to_string(path(&root)).unwrap();
        assert_eq!(text, "ab10 # a\n16 # b\n");
        let set = load(&root).unwrap();
        assert!(set.contains(&normal("AB10")) && set.contains("16") && set.len() == 2);
    }
}
