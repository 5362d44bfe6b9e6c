//! The trusted-dispatcher map (agent.md §3.6) and the revocation list (§3.5).
//!
//! Both are keyed by the canonical serial of §3.4. That function reads a serial of digits only as
//! decimal, so applying it to its own result may change it (§15 Q-5). A serial that arrives from a
//! dispatcher is already canonical and is kept as it came; where the function would change it on
//! the next load, the file holds its colon form (`00:10`), which the function leaves alone. The
//! reference reads such a file to the same meaning.

use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::sorted_map::SortedMap;
use ctrl_exec_protocol::{names, serial};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Largest map or revocation file read, in bytes.
pub const MAX_FILE: u64 = 256 * 1024;
/// Largest number of entries in the map.
pub const MAX_TRUSTED: usize = 1024;

const HEADER: &str = "# ctrl-exec trusted dispatchers: <serial> <id>, one per line.\n\
                      # Managed by pairing - do not edit by hand.\n";

/// Canonical serial to dispatcher id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustMap {
    entries: SortedMap<String>,
    /// Serials claimed by two ids: trusted for neither.
    ambiguous: Vec<String>,
}

/// Why a map could not be changed; the text goes to the dispatcher.
#[derive(Debug)]
pub enum TrustError {
    /// The serial has no usable canonical form.
    BadSerial,
    /// The dispatcher id is not a valid id.
    BadId,
    /// The map is full.
    Full,
    /// The serial belongs to another dispatcher than the one named here.
    NotOwned(String),
    /// The file could not be read or written.
    Io(io::Error),
}

impl std::fmt::Display for TrustError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TrustError::BadSerial => f.write_str("invalid dispatcher serial"),
            TrustError::BadId => f.write_str("invalid dispatcher id"),
            TrustError::Full => f.write_str("too many trusted serials"),
            TrustError::NotOwned(id) => write!(f, "serial not owned by '{id}'"),
            TrustError::Io(error) => write!(f, "trusted dispatcher map: {error}"),
        }
    }
}

impl TrustMap {
    /// Reads a map file. A missing file is an empty map; an unreadable one is an error, so that
    /// the caller can keep what it had.
    pub fn load(path: &Path) -> io::Result<TrustMap> {
        Ok(read_bounded(path)?
            .map(|text| TrustMap::parse(&text))
            .unwrap_or_default())
    }

    /// Parses the text of a map file. Lines with an invalid id are ignored.
    pub fn parse(text: &str) -> TrustMap {
        let mut map = TrustMap::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let Some((serial, id)) = line.split_once(char::is_whitespace) else {
                continue;
            };
            let id = id.trim();
            if !names::is_dispatcher_id(id) || map.entries.len() >= MAX_TRUSTED {
                continue;
            }
            let key = serial::canonical(serial);
            // The reference stores `nan` for nonsense; no certificate has that serial.
            if !is_key(&key) {
                continue;
            }
            if map.entries.get(&key).is_some_and(|known| known != id) {
                map.ambiguous.push(key);
            } else {
                map.entries.insert(key, id.to_owned());
            }
        }
        for key in &map.ambiguous {
            map.entries.remove(key);
        }
        map
    }

    /// The dispatcher id that owns the certificate with this live serial (hex as OpenSSL prints
    /// it), if it is trusted.
    pub fn owner(&self, live_serial: &str) -> Option<&str> {
        let key = serial::canonical(live_serial);
        if key.is_empty() {
            return None;
        }
        self.entries.get(&key).map(String::as_str)
    }

    /// Serials that two ids claim; nobody is trusted by them.
    pub fn ambiguous(&self) -> &[String] {
        &self.ambiguous
    }

    /// True when nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of trusted serials.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Trusts `serial`, as received from a dispatcher, for `id`; an older owner is overwritten.
    ///
    /// # Errors
    /// `BadSerial`, `BadId` or `Full`.
    pub fn add(&mut self, serial: &str, id: &str) -> Result<(), TrustError> {
        let key = received_key(serial).ok_or(TrustError::BadSerial)?;
        if !names::is_dispatcher_id(id) {
            return Err(TrustError::BadId);
        }
        if self.entries.len() >= MAX_TRUSTED && !self.entries.contains_key(&key) {
            return Err(TrustError::Full);
        }
        self.ambiguous.retain(|other| *other != key);
        self.entries.insert(key, id.to_owned());
        Ok(())
    }

    /// Stops trusting `serial`, which must belong to `id`. An absent serial is a success.
    ///
    /// # Errors
    /// `BadSerial`, or `NotOwned` when another dispatcher owns it.
    pub fn remove(&mut self, serial: &str, id: &str) -> Result<(), TrustError> {
        let key = received_key(serial).ok_or(TrustError::BadSerial)?;
        match self.entries.get(&key) {
            Some(owner) if owner != id => Err(TrustError::NotOwned(id.to_owned())),
            Some(_) => {
                self.entries.remove(&key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The text of the map file.
    pub fn render(&self) -> String {
        let mut text = String::from(HEADER);
        for (key, id) in &self.entries {
            if serial::canonical(key) != *key {
                text.push_str("00:");
            }
            text.push_str(key);
            text.push(' ');
            text.push_str(id);
            text.push('\n');
        }
        text
    }

    /// Replaces the map file in one step, mode 0644.
    ///
    /// # Errors
    /// What writing in the file's directory gave.
    pub fn store(&self, path: &Path) -> Result<(), TrustError> {
        let perm = Perm {
            mode: 0o644,
            owner: None,
        };
        durable::write(path, self.render().as_bytes(), &perm).map_err(TrustError::Io)
    }
}

/// The key of a serial sent by a dispatcher, or `None` when it is not a serial at all. The sender
/// has canonicalised it already: digits stay the hex they are.
fn received_key(text: &str) -> Option<String> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let key = if digits_only {
        let stripped = text.trim_start_matches('0');
        if stripped.is_empty() {
            "0".to_owned()
        } else {
            stripped.to_owned()
        }
    } else {
        serial::canonical(text)
    };
    is_key(&key).then_some(key)
}

/// Whether a canonical serial can be that of a certificate.
fn is_key(key: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    !key.is_empty() && key.len() <= serial::MAX_TEXT && key.bytes().all(hex)
}

/// The set of revoked serials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Canonical serial to the line it came from.
    serials: SortedMap<String>,
    bad: Vec<String>,
    absent: bool,
}

impl Revoked {
    /// Reads a revocation file. A missing file revokes nothing ([`Revoked::is_absent`]).
    ///
    /// # Errors
    /// When the file exists but cannot be read whole: to revoke nothing then would be to trust
    /// what somebody meant to revoke.
    pub fn load(path: &Path) -> io::Result<Revoked> {
        match read_bounded(path)? {
            Some(text) => Ok(Revoked::parse(&text)),
            None => Ok(Revoked {
                absent: true,
                ..Revoked::default()
            }),
        }
    }

    /// Parses the text of a revocation file.
    pub fn parse(text: &str) -> Revoked {
        let mut revoked = Revoked::default();
        let mut found = Vec::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = serial::canonical(line);
            if key == serial::NOT_A_NUMBER {
                revoked.bad.push(line.to_owned());
            } else {
                found.push((key, line.to_owned()));
            }
        }
        revoked.serials = found.into_iter().collect();
        revoked
    }

    /// Whether the certificate with this live serial is revoked.
    pub fn contains(&self, live_serial: &str) -> bool {
        !live_serial.is_empty() && self.serials.contains_key(&serial::canonical(live_serial))
    }

    /// Lines that are no serial and so revoke nothing.
    pub fn bad_lines(&self) -> &[String] {
        &self.bad
    }

    /// True when there was no file.
    pub fn is_absent(&self) -> bool {
        self.absent
    }
}

/// The text of `path`, `None` when it does not exist, an error when it is larger than
/// [`MAX_FILE`], unreadable or not UTF-8.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(ErrorKind::InvalidData, "file is too large"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_read_and_what_is_written_reads_the_same(text in "([0-9a-fA-Fx:#\\n ]|[a-z.]{1,4}|.){0,80}") {
            let map = TrustMap::parse(&text);
            prop_assert_eq!(TrustMap::parse(&map.render()).entries, map.entries);
            let _ = Revoked::parse(&text);
        }

        #[test]
        fn whatever_serial_was_added_is_trusted_after_any_number_of_rewrites(bytes in proptest::collection::vec(any::<u8>(), 1..20)) {
            let live = serial::live_hex(&bytes);
            // What a dispatcher sends of its own serial.
            let sent = serial::canonical(&live);
            let mut map = TrustMap::default();
            map.add(&sent, "disp").expect("a serial");
            for _ in 0..3 {
                prop_assert_eq!(map.owner(&live), Some("disp"));
                map = TrustMap::parse(&map.render());
            }
        }
    }

    #[test]
    fn the_reference_map_is_read() {
        let text = "# ctrl-exec trusted dispatchers: <serial> <id>, one per line.\n\
                    # Managed by pairing - do not edit by hand.\n2 perl-disp\nnan perl-disp\n";
        let map = TrustMap::parse(text);
        assert_eq!(map.owner("02"), Some("perl-disp"));
        assert_eq!(map.owner("03"), None);
        assert_eq!(map.owner(""), None);
    }

    #[test]
    fn odd_lines_are_ignored_and_comments_stop_anywhere() {
        let map = TrustMap::parse(
            "DE:AD alpha # note\n\n  0xff   beta\nonly\ncafe bad id\nfeed -x\n# 11aa gamma\n",
        );
        assert_eq!(map.owner("dead"), Some("alpha"));
        assert_eq!(map.owner("ff"), Some("beta"));
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn a_serial_claimed_by_two_ids_is_trusted_for_neither() {
        let map = TrustMap::parse("aa one\naa two\nbb one\nbb one\n");
        assert_eq!(map.owner("aa"), None);
        assert_eq!(map.ambiguous(), ["aa"]);
        assert_eq!(map.owner("bb"), Some("one"));
    }

    #[test]
    fn a_digit_serial_survives_every_rewrite() {
        // A certificate with serial 0x16 arrives as "10" (agent.md §15 Q-5) and stays trusted.
        let mut map = TrustMap::default();
        map.add("10", "disp").expect("add");
        for _ in 0..3 {
            map = TrustMap::parse(&map.render());
            assert_eq!(map.owner("16"), Some("disp"));
        }
        map.remove("10", "disp").expect("remove");
        assert!(map.is_empty());
    }

    #[test]
    fn rotation_keeps_owners_apart() {
        let mut map = TrustMap::parse("aa one\n");
        map.add("deadbeef01", "two").expect("add");
        assert!(matches!(map.remove("aa", "two"), Err(TrustError::NotOwned(id)) if id == "two"));
        map.remove("cafe", "two").expect("absent is fine");
        map.remove("DE:AD:BE:EF:01", "two").expect("remove");
        assert_eq!(map.len(), 1);
        assert!(matches!(
            map.add("zz zz", "one"),
            Err(TrustError::BadSerial)
        ));
        assert!(matches!(map.add("", "one"), Err(TrustError::BadSerial)));
        assert!(matches!(map.add("ab", "-bad"), Err(TrustError::BadId)));
    }

    #[test]
    fn the_file_is_the_references() {
        let map = TrustMap::parse("bb two\naa one\n");
        assert_eq!(map.render(), format!("{HEADER}aa one\nbb two\n"));
    }

    #[test]
    fn revocation_takes_every_spelling() {
        let list = Revoked::parse("DEADBEEF\n00:0a # lost\n255\n\n# 11\nserial=ABC\n?? \n");
        for live in ["deadbeef", "0a", "ff", "0abc"] {
            assert!(list.contains(live), "{live}");
        }
        assert!(!list.contains("0b"));
        assert!(!list.contains(""));
        assert_eq!(list.bad_lines(), ["??"]);
    }

    #[test]
    fn missing_files_are_empty_and_unreadable_ones_are_errors() {
        let dir = std::env::temp_dir();
        let none = dir.join("ctrl-exec-no-such-file");
        assert!(Revoked::load(&none).expect("absent").is_absent());
        assert!(TrustMap::load(&none).expect("absent").is_empty());
        assert!(Revoked::load(&dir).is_err());
    }
}
