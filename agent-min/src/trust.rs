//! The trusted-dispatcher map (agent.md §3.6) and the revocation list (§3.5).
//!
//! Both are keyed by the *number* of a serial, not by its canonical text (§3.4): that text reads
//! digits as decimal, so two certificates, 0x0f and 0x15, would have one key (§15 Q-5). What a
//! dispatcher sends has passed the canonical function and is taken back to the number it means.
//! Where the function would change a number's text on the next load, the file holds its colon form
//! (`00:10`), which every reader leaves alone. A bare serial in the map that comes out as digits
//! only is trusted for nobody: it might mean either.

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::sorted_map::SortedMap;
use ctrl_exec_protocol::x509::crl::Crl;
use ctrl_exec_protocol::{names, serial};
use std::io;
use std::path::Path;

/// Largest map or revocation file read, in bytes.
pub const MAX_FILE: u64 = 256 * 1024;
/// Most dispatchers whose revocation lists are kept.
pub const MAX_LISTS: usize = 16;
/// Largest number of entries in the map.
pub const MAX_TRUSTED: usize = 1024;

const HEADER: &str = "# ctrl-exec trusted dispatchers: <serial> <id>, one per line.\n\
                      # Managed by pairing - do not edit by hand.\n";

/// Number of a serial to dispatcher id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustMap {
    entries: SortedMap<String>,
    /// Serials claimed by two ids: trusted for neither.
    ambiguous: Vec<String>,
    /// Entries of digits only, without colons: trusted for nobody.
    unclear: Vec<String>,
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
    /// The serial is another dispatcher's already.
    Taken,
    /// The serial is that of a pairing whose files wait for root to move them.
    Pending,
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
            TrustError::Taken => f.write_str("serial belongs to another dispatcher"),
            TrustError::Pending => f.write_str(
                "serial belongs to a pairing that a start of the agent's service completes",
            ),
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

    /// As [`TrustMap::load`], but a symbolic link is an error: for root in a directory of others.
    pub fn load_no_follow(path: &Path) -> io::Result<TrustMap> {
        Ok(Bounded::new(MAX_FILE)
            .no_follow()
            .optional_text(path)?
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
            let key = match stored_key(serial) {
                Stored::Number(key) => key,
                Stored::Unclear => {
                    map.unclear.push(serial.to_owned());
                    continue;
                }
                // The reference stores `nan` for nonsense; no certificate has that serial.
                Stored::Nothing => continue,
            };
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
        if live_serial.is_empty() {
            return None;
        }
        let key = serial::exact(live_serial);
        self.entries.get(key).map(String::as_str)
    }

    /// Whether the reference would trust this live serial, which we do not, because its canonical
    /// form is that of a trusted one: its twin, or the dispatcher itself under an entry that does
    /// not tell them apart.
    pub fn has_twin(&self, live_serial: &str) -> bool {
        let canonical = serial::canonical(live_serial);
        canonical != serial::exact(live_serial) && self.entries.contains_key(&canonical)
    }

    /// Entries that are digits only and so trust nobody.
    pub fn unclear(&self) -> &[String] {
        &self.unclear
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

    /// Trusts `serial`, as received from the dispatcher `id`.
    ///
    /// # Errors
    /// `BadSerial`, `BadId`, `Full`, or `Taken` when it is another dispatcher's.
    pub fn add(&mut self, serial: &str, id: &str) -> Result<(), TrustError> {
        let key = serial::of_wire(serial).ok_or(TrustError::BadSerial)?;
        let other = self.entries.get(&key).is_some_and(|owner| owner != id);
        if other || self.ambiguous.contains(&key) {
            return Err(TrustError::Taken);
        }
        self.assign(serial, id)
    }

    /// Trusts `serial` for `id`, whoever had it: for pairing, where an operator has agreed.
    ///
    /// # Errors
    /// `BadSerial`, `BadId` or `Full`.
    pub fn assign(&mut self, serial: &str, id: &str) -> Result<(), TrustError> {
        let key = serial::of_wire(serial).ok_or(TrustError::BadSerial)?;
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
        let key = serial::of_wire(serial).ok_or(TrustError::BadSerial)?;
        match self.entries.get(&key) {
            Some(owner) if owner != id => Err(TrustError::NotOwned(id.to_owned())),
            Some(_) => {
                self.entries.remove(&key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The dispatchers that are trusted, each once.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.entries.values().map(String::as_str).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The text of the map file.
    pub fn render(&self) -> String {
        let mut text = String::from(HEADER);
        for (key, id) in &self.entries {
            text.push_str(&serial::for_file(key));
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

/// What a serial in the map file stands for.
enum Stored {
    Number(String),
    Unclear,
    Nothing,
}

fn stored_key(text: &str) -> Stored {
    if text.contains(':') {
        return serial::of_wire(text).map_or(Stored::Nothing, Stored::Number);
    }
    let prefix = text.get(..2).unwrap_or_default();
    if prefix.eq_ignore_ascii_case("0x") {
        let hex = format!("00:{}", &text[2..]);
        return serial::of_wire(&hex).map_or(Stored::Nothing, Stored::Number);
    }
    let key = serial::canonical(text);
    if !is_key(&key) {
        Stored::Nothing
    } else if key.len() > 1 && key.bytes().all(|b| b.is_ascii_digit()) {
        Stored::Unclear
    } else {
        Stored::Number(key)
    }
}

/// Whether a canonical serial can be that of a certificate.
fn is_key(key: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    !key.is_empty() && key.len() <= serial::MAX_TEXT && key.bytes().all(hex)
}

/// The set of revoked serials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Numbers, each with the line it came from.
    serials: SortedMap<String>,
    /// Lists that dispatchers handed over, with their ids.
    lists: Vec<(String, Crl)>,
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
            let numbers = serial::written(line);
            if numbers.is_empty() {
                revoked.bad.push(line.to_owned());
            }
            found.extend(numbers.into_iter().map(|number| (number, line.to_owned())));
        }
        revoked.serials = found.into_iter().collect();
        revoked
    }

    /// Whether the certificate with this live serial is revoked.
    pub fn contains(&self, live_serial: &str) -> bool {
        !live_serial.is_empty()
            && (self.serials.contains_key(serial::exact(live_serial))
                || self
                    .lists
                    .iter()
                    .any(|(_, list)| list.contains(live_serial)))
    }

    /// Number of the list of a dispatcher; 0 when there is none.
    pub fn list_number(&self, dispatcher: &str) -> u64 {
        let own = self.lists.iter().find(|(id, _)| id == dispatcher);
        own.map_or(0, |(_, list)| list.number())
    }

    /// Whether there is no room for the list of one more dispatcher.
    pub fn is_full(&self, dispatcher: &str) -> bool {
        self.lists.len() >= MAX_LISTS && self.list_number(dispatcher) == 0
    }

    /// Takes a dispatcher's list in place of the one before.
    pub fn take_list(&mut self, dispatcher: &str, list: Crl) {
        self.lists.retain(|(id, _)| id != dispatcher);
        self.lists.push((dispatcher.to_owned(), list));
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
/// [`MAX_FILE`], no regular file, unreadable or not UTF-8. Never waits.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    Bounded::new(MAX_FILE).optional_text(path)
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
            // A serial of digits only whose canonical form has letters is not told from its twin.
            let number = serial::exact(&live);
            let twin = number.bytes().all(|b| b.is_ascii_digit())
                && sent.bytes().any(|b| b.is_ascii_alphabetic());
            for _ in 0..3 {
                prop_assert_eq!(map.owner(&live), (!twin).then_some("disp"));
                prop_assert_eq!(map.has_twin(&live), twin);
                map = TrustMap::parse(&map.render());
            }
        }
    }

    /// Serials of small CAs: the certificate of one number never passes for another's, whatever
    /// the map says and however it is written.
    #[test]
    fn no_certificate_is_taken_for_its_twin() {
        for text in [
            "f d",
            "0f d",
            "00:0f d",
            "0x0f d",
            "15 d",
            "00:15 d",
            "0x15 d",
            "15 (0x0f) d",
        ] {
            let map = TrustMap::parse(text);
            let trusted: Vec<_> = (1..=255u8)
                .map(|n| serial::live_hex(&[n]))
                .filter(|live| map.owner(live).is_some())
                .collect();
            let expected: &[&str] = match text {
                "00:15 d" | "0x15 d" => &["15"],
                // The reference reads it as decimal.
                "15 d" => &["0f"],
                text if text.contains('(') => &[],
                _ => &["0f"],
            };
            assert_eq!(trusted, expected, "{text}");
        }
        for text in ["16 d", "23 d", "100 d"] {
            let map = TrustMap::parse(text);
            assert!(map.is_empty());
            assert_eq!(map.unclear(), [text.trim_end_matches(" d")]);
        }
        assert!(TrustMap::parse("f d").has_twin("15"));
        assert!(!TrustMap::parse("f d").has_twin("0f"));
        assert!(!TrustMap::parse("f d").has_twin("02"));
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
        // Nobody settles that by a request; a pairing that an operator approved does.
        let mut map = map;
        assert!(matches!(map.add("aa", "one"), Err(TrustError::Taken)));
        map.assign("aa", "two").expect("assign");
        assert_eq!((map.owner("aa"), map.ambiguous().len()), (Some("two"), 0));
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
        assert!(matches!(map.add("aa", "two"), Err(TrustError::Taken)));
        assert!(matches!(map.add("00:0A:a", "two"), Err(TrustError::Taken)));
        map.add("aa", "one").expect("its own");
        assert_eq!(map.owner("aa"), Some("one"));
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
        for (text, live) in [
            ("16 (0x10)", "10"),
            ("Serial Number: 16 (0x10)", "10"),
            ("00:10", "10"),
            ("0x10", "10"),
            ("0X0F", "0f"),
            ("de:ad:BE:EF", "deadbeef"),
            ("  serial=10  # stolen", "10"),
            ("10", "10"),
            ("16", "10"),
        ] {
            let list = Revoked::parse(text);
            assert!(list.contains(live), "{text}");
            assert!(!list.contains("11"), "{text}");
            assert!(list.bad_lines().is_empty());
        }
        assert!(!Revoked::parse("16 (0x10)").contains("16"));
    }

    #[test]
    fn the_map_takes_so_many_and_no_more() {
        let lines: Vec<_> = (0..MAX_TRUSTED - 1)
            .map(|n| format!("f{n:x} d\n"))
            .collect();
        let mut map = TrustMap::parse(&lines.concat());
        map.add("e1", "d").expect("the last place");
        assert_eq!(map.len(), MAX_TRUSTED);
        assert!(matches!(map.add("e2", "d"), Err(TrustError::Full)));
        map.add("e1", "d").expect("it is there already");
        assert_eq!((map.owner("e1"), map.owner("e2")), (Some("d"), None));
        let more = format!("{}e1 d\ne2 d\n", lines.concat());
        assert_eq!(TrustMap::parse(&more).owner("e2"), None);
    }

    #[test]
    fn missing_files_are_empty_and_unreadable_ones_are_errors() {
        let dir = std::env::temp_dir().join(format!("ctrl-exec-trust-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("dir");
        let none = dir.join("no-such-file");
        assert!(Revoked::load(&none).expect("absent").is_absent());
        assert!(TrustMap::load(&none).expect("absent").is_empty());
        let (circle, fifo, large) = (dir.join("circle"), dir.join("fifo"), dir.join("large"));
        std::os::unix::fs::symlink(&circle, &circle).expect("link");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("fifo");
        let most = usize::try_from(MAX_FILE).expect("small");
        let text = "ab01 # x\n".repeat(most / 9 + 1);
        std::fs::write(&large, &text[..most]).expect("write");
        assert!(Revoked::load(&large).expect("just fits").contains("ab01"));
        std::fs::write(&large, &text[..=most]).expect("write");
        let latin = dir.join("latin");
        std::fs::write(&latin, b"caf\xe9\n").expect("write");
        for path in [&dir, &circle, &fifo, &large, &latin, &large.join("below")] {
            assert!(Revoked::load(path).is_err(), "{}", path.display());
            assert!(TrustMap::load(path).is_err(), "{}", path.display());
        }
        let _ = std::fs::remove_dir_all(&dir);
    }
}
