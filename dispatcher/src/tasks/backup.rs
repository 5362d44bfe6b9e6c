//! Backups (`backup`), and the files that carry a CA to another dispatcher (`export-ca`).

use crate::backup::{Archive, Due, Kind, LastBackup, Place, Places, manifest, read_item, snapshot};
use crate::ca::Authority;
use crate::model::AgentRecord;
use crate::model::{self, AppError};
use crate::sealed::{self, For};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use std::path::Path;

/// A backup that was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// When it was made.
    pub made: Utc,
    /// How many agents it knows.
    pub agents: usize,
    /// How many runs it has the records of.
    pub runs: usize,
    /// Its size in bytes.
    pub bytes: usize,
    /// In words: what is missing.
    pub notes: Vec<String>,
}

/// Writes a backup of everything, readable for its owner only. A former backup at that path is
/// replaced when the new one is whole.
///
/// # Errors
/// What cannot be read or does not belong together, or a file there that is no backup.
pub fn backup(
    places: &Places,
    file: &Path,
    whom: &For,
    runs: bool,
    log: &Syslog,
) -> Result<Written, AppError> {
    replaceable(file)?;
    let picture = snapshot(places, runs, true)?;
    let archive = &picture.archive;
    let bytes = write(file, archive, whom)?;
    let written = Written {
        made: archive.manifest.made,
        agents: archive.agents().count(),
        runs: archive.runs(),
        bytes,
        notes: picture.notes,
    };
    LastBackup::of(archive, file.display().to_string()).store(places)?;
    let line = Line::new("backup")
        .field("FILE", file.display())
        .field("AGENTS", written.agents)
        .field("RUNS", written.runs)
        .field("BYTES", written.bytes);
    log.log(Level::Info, &line);
    Ok(written)
}

/// Writes the CA for another dispatcher: its key and certificate, what was revoked and what was
/// issued.
///
/// # Errors
/// No CA here, or what cannot be read or written.
pub fn export_ca(places: &Places, file: &Path, whom: &For, log: &Syslog) -> Result<(), AppError> {
    replaceable(file)?;
    Authority::load(&places.ca())?;
    let mut items = Vec::new();
    for place in [
        Place::Ca("ca.crt".to_owned()),
        Place::Ca("ca.key".to_owned()),
        Place::State("revoked-serials".to_owned()),
        Place::State("issued-certificates".to_owned()),
    ] {
        items.extend(read_item(places, place)?);
    }
    let archive = Archive {
        manifest: manifest(places, Kind::Ca),
        items,
        folders: Vec::new(),
    };
    write(file, &archive, whom)?;
    log.log(
        Level::Warning,
        &Line::new("ca-exported").field("FILE", file.display()),
    );
    Ok(())
}

/// When the next backup is due, in words; `None` when it is not, or nobody wants to hear of it.
pub fn reminder(places: &Places, agents: &[AgentRecord]) -> Option<String> {
    if !places.config().backup_reminder() {
        return None;
    }
    match Due::look(places, agents) {
        Due::No(_) => None,
        Due::Never => Some(
            "no backup was ever made: a dead disk would cost the whole fleet; 'ced backup FILE' \
             makes one"
                .to_owned(),
        ),
        Due::Since(last, what) => Some(format!(
            "the last backup is of {}; since then there was {what}: make another one \
             ('ced backup')",
            last.made.iso()
        )),
    }
}

/// Whether a file may be written there: nothing is there, or a file that was written so before.
fn replaceable(file: &Path) -> Result<(), AppError> {
    let Ok(there) = Bounded::new(u64::MAX).open(file) else {
        return match file.symlink_metadata() {
            Ok(meta) if !meta.is_file() => Err(AppError::new(
                model::Kind::Conflict,
                format!("{} is no plain file", file.display()),
            )),
            _ => Ok(()),
        };
    };
    let start = Bounded::new(64)
        .read_from(std::io::Read::take(there, 64))
        .unwrap_or_default();
    if start.is_empty() || start.starts_with(b"age-encryption.org/v1\n") {
        return Ok(());
    }
    Err(AppError::new(
        model::Kind::Conflict,
        format!(
            "{} exists and is no backup; it is not overwritten",
            file.display()
        ),
    ))
}

fn write(file: &Path, archive: &Archive, whom: &For) -> Result<usize, AppError> {
    let plain = archive.to_bytes().map_err(AppError::system)?;
    let bytes = sealed::seal(&plain, whom).map_err(|error| AppError::system(error.to_string()))?;
    // The path is in the error already.
    durable::write(file, &bytes, &Perm::mode(0o600))
        .map_err(|error| AppError::system(format!("cannot write the backup: {error}")))?;
    Ok(bytes.len())
}
