//! A new record for one that cannot be read, of what is left in the file.

use super::record::Record;
use super::{Registry, RegistryError, SerialStatus, bounded_tags, io_error};
use crate::model::json::{self as jval, Object, Value};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::names::AGENT_PORT;
use ctrl_exec_protocol::time::Utc;
use std::path::PathBuf;

/// Largest damaged file looked into.
const MAX_FILE: u64 = 64 << 20;
/// Largest member of a record that is kept when a whole one is too large.
const MAX_MEMBER: usize = 4096;
/// Fields that are looked for in the pieces of a record.
const FIELDS: [&str; 16] = [
    "hostname",
    "ip",
    "lookup_by",
    "paired",
    "expiry",
    "reqid",
    "dispatcher_serial",
    "serial_broadcast",
    "serial_confirmed",
    "serial_status",
    "paired_cn",
    "agent_version",
    "executor",
    "rate",
    "cert_serial",
    "revoked",
];

/// A record that was made anew.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// As written.
    pub record: Record,
    /// Where the damaged file is kept.
    pub kept: PathBuf,
    /// Names of the fields that could be saved.
    pub saved: Vec<String>,
}

impl Registry {
    /// Makes a new record of what can be read of a damaged one, which is kept under another name.
    /// `change` completes it. `None` when the record is not damaged.
    ///
    /// # Errors
    /// The operating system's, or no such agent.
    pub fn repair(
        &self,
        name: &str,
        now: Utc,
        change: impl FnOnce(&mut Record),
    ) -> Result<Option<Repaired>, RegistryError> {
        self.check_name(name)?;
        let _lock = self.lock()?;
        match self.load(name) {
            Ok(Some(_)) => return Ok(None),
            Ok(None) => return Err(RegistryError::Unknown(name.to_owned())),
            Err(RegistryError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let path = self.path(name);
        // Whatever stands there instead of a file has nothing to say.
        let bytes = Bounded::new(MAX_FILE).no_follow().read(&path);
        let raw = salvage(&bytes.unwrap_or_default());
        let saved = raw.keys().map(ToString::to_string).collect();
        let mut record = Record::from_raw(name, raw);
        if record.text("hostname").is_empty() {
            record.set("hostname", name);
        }
        if !record.raw().contains_key("port") {
            record.set_port(AGENT_PORT);
        }
        if record.text("lookup_by").is_empty() {
            record.set(
                "lookup_by",
                if record.ip().is_empty() {
                    "hostname"
                } else {
                    "ip"
                },
            );
        }
        if record.text("serial_status").is_empty() {
            record.set_serial_status(SerialStatus::Unknown);
        }
        if jval::sub_object(record.raw(), "tags").is_none() {
            record.set_tags(Object::new());
        }
        change(&mut record);
        // No `.json` at its end: that is what makes a record.
        let kept = self.dir().join(format!("{name}.damaged-{}", now.0));
        std::fs::rename(&path, &kept).map_err(|error| io_error("keep", &path, error))?;
        self.write(&record)?;
        Ok(Some(Repaired {
            record,
            kept,
            saved,
        }))
    }
}

/// What is left of a record: all of one that is only too large, else the fields that can be made
/// out.
pub fn salvage(bytes: &[u8]) -> Object {
    if let Some(whole) = jval::parse_object(bytes) {
        let mut kept = Object::new();
        for (key, value) in whole.iter() {
            if let ("tags", Value::Object(tags)) = (key, value) {
                kept.insert(key.to_owned(), Value::Object(bounded_tags(tags).0));
            } else if key.len() <= MAX_MEMBER && jval::line(value).len() <= MAX_MEMBER {
                kept.insert(key.to_owned(), value.clone());
            }
        }
        return kept;
    }
    let text = String::from_utf8_lossy(bytes);
    let mut kept = Object::new();
    for field in FIELDS {
        if let Some(value) = string_after(&text, field) {
            kept.insert(field.to_owned(), jval::string(value));
        }
    }
    if let Some(port) = number_after(&text, "port") {
        kept.insert("port".to_owned(), jval::int(port));
    }
    kept
}

/// The value of `"field":"value"`, whole and without escapes.
fn string_after<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let rest = after(text, field)?.strip_prefix('"')?;
    let (value, _) = rest.split_once('"')?;
    let plain = |c: char| !c.is_control() && c != '\\';
    (value.len() <= 256 && value.chars().all(plain)).then_some(value)
}

/// The value of `"field":number`; the number ends before something else.
fn number_after(text: &str, field: &str) -> Option<i64> {
    let rest = after(text, field)?;
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest.get(..end)?.parse().ok()
}

fn after<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{field}\""))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}
