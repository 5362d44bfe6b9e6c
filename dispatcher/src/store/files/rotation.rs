//! `rotation.json`.

use crate::model::RotationState;
use crate::store::rotation::Rotations;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use std::io;
use std::path::{Path, PathBuf};

/// Largest state file read.
const MAX_FILE: u64 = 1 << 16;

/// Reads the file; `None` when there is none. A damaged one is logged and counts as none.
///
/// # Errors
/// The operating system's.
pub fn load(path: &Path, log: &Syslog) -> io::Result<Option<RotationState>> {
    let fault = match Bounded::new(MAX_FILE).optional(path) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match RotationState::parse(&bytes) {
            Ok(state) => return Ok(Some(state)),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => error.to_string(),
        Err(error) => return Err(error),
    };
    let line = Line::new("rotation-state-corrupt")
        .field("PATH", path.display())
        .field("ERROR", fault)
        .field("REASON", "treated as never rotated");
    log.log(Level::Err, &line);
    Ok(None)
}

/// Writes the file (0640).
///
/// # Errors
/// The operating system's.
pub fn store(state: &RotationState, path: &Path) -> io::Result<()> {
    durable::write(path, state.to_json().as_bytes(), &Perm::mode(0o640))
}

/// The file of one dispatcher.
#[derive(Clone, Debug)]
pub struct RotationFile(pub PathBuf);

impl Rotations for RotationFile {
    fn load(&self, log: &Syslog) -> io::Result<Option<RotationState>> {
        load(&self.0, log)
    }

    fn save(&self, state: &RotationState) -> io::Result<()> {
        store(state, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::testing::TempDir;

    #[test]
    fn a_file_keeps_the_state() {
        let dir = TempDir::new();
        conformance::rotation(&RotationFile(dir.path().join("rotation.json")));
    }
}
