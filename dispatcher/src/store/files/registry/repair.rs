//! A new record for one that cannot be read, of what is left in the file.

use super::{Registry, RegistryError, io_error};
use crate::model::{AgentRecord, salvage};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::LookupBy;
use std::path::PathBuf;

/// Largest damaged file looked into.
const MAX_FILE: u64 = 64 << 20;
/// A record that was made anew.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// As written.
    pub record: AgentRecord,
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
        change: impl FnOnce(&mut AgentRecord),
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
        let fields = salvage(&bytes.unwrap_or_default());
        let saved = fields.iter().map(|(field, _)| field.to_owned()).collect();
        let mut record = AgentRecord::from_members(name, fields);
        if record.hostname.as_deref().unwrap_or_default().is_empty() {
            record.hostname = Some(name.to_owned());
        }
        record.port = Some(record.port());
        if record.lookup_by.is_none() {
            record.lookup_by = Some(if record.ip().is_empty() {
                LookupBy::Hostname
            } else {
                LookupBy::Ip
            });
        }
        record.serial_status = Some(record.serial_status());
        record.tags.get_or_insert_default();
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
