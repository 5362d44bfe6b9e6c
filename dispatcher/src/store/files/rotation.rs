//! `rotation.json` (pki-and-pairing.md §9.1). Members of other versions are kept.

use std::io::{self, Read};
use std::path::Path;

use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::{DAY, Utc};

use crate::model::json::{self as jval, Object, Value};

/// Serials before the previous one that agents may still trust. Ours only.
const UNRETIRED: &str = "unretired_serials";
/// Largest state file read.
const MAX_FILE: u64 = 1 << 16;

/// What is known about the last rotation.
#[derive(Clone, Debug, Default)]
pub struct RotationState {
    raw: Object,
}

impl RotationState {
    /// Reads the file; `None` when there is none. A damaged one is logged and counts as none.
    ///
    /// # Errors
    /// The operating system's.
    pub fn load(path: &Path, log: &Syslog) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(MAX_FILE).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let raw = jval::parse_object(&bytes);
        if raw.is_none() {
            let line = Line::new("rotation-state-corrupt")
                .field("PATH", path.display())
                .field("ERROR", "not a JSON object")
                .field("REASON", "treated as never rotated");
            log.log(Level::Err, &line);
        }
        Ok(raw.map(|raw| Self { raw }))
    }

    /// The state in a text; an empty one if it is none.
    pub fn parse(text: &str) -> Self {
        Self {
            raw: jval::parse_object(text.as_bytes()).unwrap_or_default(),
        }
    }

    /// Writes the file (0640).
    ///
    /// # Errors
    /// The operating system's.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        durable::write(path, jval::line(&self.raw).as_bytes(), &Perm::mode(0o640))
    }

    /// The whole object.
    pub fn raw(&self) -> &Object {
        &self.raw
    }

    /// Canonical serial of the present certificate.
    pub fn current_serial(&self) -> &str {
        jval::str_or_empty(&self.raw, "current_serial")
    }

    /// Canonical serial of the one before, until it is retired; else empty.
    pub fn previous_serial(&self) -> &str {
        jval::str_or_empty(&self.raw, "previous_serial")
    }

    /// When the last rotation was.
    pub fn rotated_at(&self) -> &str {
        jval::str_or_empty(&self.raw, "rotated_at")
    }

    /// End of the overlap.
    pub fn overlap_expires(&self) -> Option<Utc> {
        Utc::parse_iso(jval::str_or_empty(&self.raw, "overlap_expires"))
    }

    /// Length of the overlap in days.
    pub fn overlap_days(&self) -> i64 {
        jval::integer(&self.raw, "overlap_days").unwrap_or(30)
    }

    /// Serials that were previous once and were not taken back yet.
    pub fn unretired(&self) -> Vec<String> {
        match self.raw.get(UNRETIRED) {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|item| match item {
                    Value::String(serial) => Some(serial.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Notes a rotation. A serial that was previous until now is remembered for retirement: the
    /// reference forgets it, so that agents trust it for ever (DEVIATE).
    pub(crate) fn rotated(&mut self, current: &str, old: Option<&str>, overlap: u32, now: Utc) {
        let mut unretired = self.unretired();
        let before = self.previous_serial().to_owned();
        if !before.is_empty() && old != Some(before.as_str()) && !unretired.contains(&before) {
            unretired.push(before);
        }
        self.set_unretired(&unretired);
        let expires = Utc(now.0 + i64::from(overlap) * DAY);
        self.set("current_serial", current);
        self.set("previous_serial", old.unwrap_or_default());
        self.set("rotated_at", &now.iso());
        self.set("overlap_expires", &expires.iso());
        self.raw
            .insert("overlap_days".to_owned(), jval::int(i64::from(overlap)));
        self.raw.remove("previous_retired");
    }

    /// Notes that a serial was taken back (or given up).
    pub(crate) fn retired(&mut self, serial: &str, now: Utc) {
        let unretired = self.unretired().into_iter().filter(|other| other != serial);
        let unretired: Vec<String> = unretired.collect();
        self.set_unretired(&unretired);
        if self.previous_serial() == serial {
            self.raw.remove("previous_serial");
            self.set("previous_retired", &now.iso());
        }
    }

    fn set_unretired(&mut self, serials: &[String]) {
        if serials.is_empty() {
            self.raw.remove(UNRETIRED);
        } else {
            let serials = Value::Array(serials.iter().map(jval::string).collect());
            self.raw.insert(UNRETIRED.to_owned(), serials);
        }
    }

    fn set(&mut self, key: &str, text: &str) {
        self.raw.insert(key.to_owned(), jval::string(text));
    }
}
