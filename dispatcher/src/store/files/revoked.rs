//! The dispatcher's own revocation list: certificates that no agent may show us any more. The
//! reference has none, so that a decommissioned agent's certificate could pose as any other agent
//! for years.

pub use crate::store::revoked::Entry;
use crate::store::revoked::Revoked;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::lock::{self, Kind};
use ctrl_exec_host::paths::Root;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

/// Where the list is, below the root. One serial a line; `#` starts a comment.
pub const PATH: &str = "/var/lib/ctrl-exec/revoked-serials";

/// Largest list read: half a million serials.
const MAX_FILE: u64 = 64 << 20;

/// The list of one dispatcher.
#[derive(Clone, Debug)]
pub struct RevokedFile(pub Root);

impl Revoked for RevokedFile {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        entries(&self.0)
    }

    fn add(&self, serials: &[String], comment: &str) -> io::Result<usize> {
        add(&self.0, serials, comment)
    }

    fn remove(&self, serials: &HashSet<String>) -> io::Result<Vec<String>> {
        remove(&self.0, serials)
    }
}

/// The list of this dispatcher.
pub fn path(root: &Root) -> PathBuf {
    root.path(PATH)
}

/// Serials no agent may show. A missing list is empty.
///
/// # Errors
/// A list that cannot be read, or a line that is no serial, with its number: going on without it
/// would let the revoked in.
pub fn load(root: &Root) -> io::Result<HashSet<String>> {
    Ok(entries(root)?
        .into_iter()
        .map(|entry| entry.serial)
        .collect())
}

/// The lines of the list.
///
/// # Errors
/// As [`load`].
pub fn entries(root: &Root) -> io::Result<Vec<Entry>> {
    parse(&text(root)?)
}

/// Adds serials, each with a comment of who it was; returns how many are new.
///
/// # Errors
/// As [`load`], or the operating system's.
pub fn add(root: &Root, serials: &[String], comment: &str) -> io::Result<usize> {
    let mut added = 0;
    change(root, |mut text, listed| {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let comment: String = comment
            .chars()
            .map(|c| if c.is_control() || c == '#' { ' ' } else { c })
            .collect();
        let mut listed: HashSet<String> = listed.iter().map(|e| e.serial.clone()).collect();
        for serial in serials {
            let serial = normal(serial);
            if listed.insert(serial.clone()) {
                text.push_str(&format!("{serial} # {comment}\n"));
                added += 1;
            }
        }
        text
    })?;
    Ok(added)
}

/// Takes serials off the list; returns those that were on it.
///
/// # Errors
/// As [`add`].
pub fn remove(root: &Root, serials: &HashSet<String>) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    change(root, |text, _| {
        let mut kept = String::new();
        for line in text.lines() {
            match parse_line(line) {
                Some(Ok(entry)) if serials.contains(&entry.serial) => removed.push(entry.serial),
                _ => {
                    kept.push_str(line);
                    kept.push('\n');
                }
            }
        }
        kept
    })?;
    Ok(removed)
}

/// The form serials are compared in: lower-case hex without leading zeros, always read as hex.
/// Takes what `openssl x509 -serial` and `-text` print: `serial=0A1B`, `0a:1b`, `2587 (0xa1b)`.
pub fn normal(serial: &str) -> String {
    read(serial).unwrap_or_default()
}

/// The serial in a text, as [`normal`]; `None` when there is none in it.
pub fn read(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let text = text
        .strip_prefix("serial number:")
        .or_else(|| text.strip_prefix("serial="))
        .unwrap_or(&text)
        .trim();
    // A number followed by its hex form in brackets.
    let text = match text.split_once('(') {
        Some((decimal, rest)) => {
            let hex = rest.strip_suffix(')')?.trim().strip_prefix("0x")?;
            let decimal = decimal.trim();
            if decimal.is_empty() || !decimal.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            hex
        }
        None => text.strip_prefix("0x").unwrap_or(text),
    };
    let hex: String = text.chars().filter(|c| *c != ':').collect();
    if hex.is_empty() || hex.len() > 128 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bare = hex.trim_start_matches('0');
    Some(if bare.is_empty() { "0" } else { bare }.to_owned())
}

fn parse_line(line: &str) -> Option<Result<Entry, ()>> {
    let (serial, comment) = line.split_once('#').unwrap_or((line, ""));
    if serial.trim().is_empty() {
        return None;
    }
    Some(read(serial).ok_or(()).map(|serial| Entry {
        serial,
        comment: comment.trim().to_owned(),
    }))
}

/// The lines of the text.
///
/// # Errors
/// A line that is no serial, with its number.
pub fn parse(text: &str) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match parse_line(line) {
            None => {}
            Some(Ok(entry)) => found.push(entry),
            Some(Err(())) => {
                let shown = ctrl_exec_protocol::text::Untrusted::new(line).at_most(80);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {number}: '{shown}' is no serial"),
                ));
            }
        }
    }
    Ok(found)
}

fn text(root: &Root) -> io::Result<String> {
    let text = Bounded::new(MAX_FILE).optional_text(&path(root))?;
    Ok(text.unwrap_or_default())
}

/// Rewrites the list while nobody else of ours does.
fn change(root: &Root, change: impl FnOnce(String, &[Entry]) -> String) -> io::Result<()> {
    let path = path(root);
    if let Some(dir) = path.parent() {
        super::dirs::ensure(dir)?;
    }
    let _lock = lock::wait(
        lock::open(&path.with_extension("lock"), 0o660)?,
        Kind::Exclusive,
    )?;
    let before = text(root)?;
    let entries = parse(&before)?;
    let after = change(before.clone(), &entries);
    if after == before {
        return Ok(());
    }
    durable::write(&path, after.as_bytes(), &Perm::mode(0o644))
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
        let one = |serial: &str, name| add(&root, &[serial.to_owned()], name).unwrap();
        assert_eq!(one("00AB:10", "a"), 1);
        assert_eq!(one("ab10", "a"), 0);
        assert_eq!(one("16", "b\nff # x"), 1);
        let text = std::fs::read_to_string(path(&root)).unwrap();
        assert_eq!(text, "ab10 # a\n16 # b ff   x\n");
        let set = load(&root).unwrap();
        assert!(set.contains(&normal("AB10")) && set.contains("16") && set.len() == 2);
        assert_eq!(
            remove(&root, &HashSet::from(["ab10".to_owned(), "1".to_owned()])).unwrap(),
            ["ab10"]
        );
        assert_eq!(load(&root).unwrap(), HashSet::from(["16".to_owned()]));
    }

    /// What openssl prints can be pasted; what is no serial is an error with its line, and never an
    /// entry that bars nothing.
    #[test]
    fn as_openssl_prints_them() {
        for (text, serial) in [
            ("serial=0A1B", "a1b"),
            ("16 (0x10)", "10"),
            ("Serial Number: 16 (0x10)", "10"),
            ("        Serial Number:\t16 (0x10)", "10"),
            ("4b:1f:00:FF", "4b1f00ff"),
            ("00:10", "10"),
            ("0x0f", "f"),
            ("00", "0"),
        ] {
            assert_eq!(read(text).as_deref(), Some(serial), "{text}");
        }
        for bad in [
            "", "x", "16 (10)", "(0x10)", "a b", "10 (0x)", "16 (0x10", "--",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert!(read(&"a".repeat(200)).is_none());
        let error = parse("10\n# note\n\nrouter7\n").unwrap_err().to_string();
        assert_eq!(error, "line 4: 'router7' is no serial");
    }

    #[test]
    fn a_file_is_a_list_of_barred_serials() {
        let dir = TempDir::new();
        let root = Root::at(dir.path());
        std::fs::create_dir_all(path(&root).parent().unwrap()).unwrap();
        crate::store::conformance::revoked(&RevokedFile(root));
    }

    #[test]
    fn writers_lose_nothing() {
        let dir = TempDir::new();
        let root = Root::at(dir.path());
        std::thread::scope(|scope| {
            for n in 0..8 {
                let root = &root;
                scope.spawn(move || add(root, &[format!("4a{n}")], "x").unwrap());
            }
        });
        assert_eq!(load(&root).unwrap().len(), 8);
    }
}
