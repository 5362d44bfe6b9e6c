//! When the next backup is due: after a rotation, a pairing or a revocation.

use super::archive::Archive;
use super::place::{Folder, Place};
use super::places::Places;
use super::snapshot::failed;
use crate::model::AgentRecord;
use crate::model::AppError;
use crate::model::RotationState;
use crate::store::files::revoked;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::json::{Bounds, Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

/// What is known of the last backup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LastBackup {
    /// When it was made.
    pub made: Utc,
    /// The file that it was written to.
    pub file: String,
    /// The last rotation that it knows of.
    pub rotated_at: String,
}

/// Why a backup is due.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing has changed since.
    No(LastBackup),
    /// None was ever made.
    Never,
    /// In words: what has happened since.
    Since(LastBackup, String),
}

impl LastBackup {
    /// The backup with this content.
    pub fn of(archive: &Archive, file: String) -> Self {
        let state = archive.text(&Place::Rotation).map(RotationState::of_text);
        Self {
            made: archive.manifest.made,
            file,
            rotated_at: state.map_or_else(String::new, |state| state.rotated_at().to_owned()),
        }
    }

    fn path(places: &Places) -> PathBuf {
        places.folder(Folder::State).join("last-backup")
    }

    /// What is noted; `None` when there is nothing, or nothing that can be read.
    pub fn load(places: &Places) -> Option<Self> {
        let bytes = Bounded::new(1 << 16)
            .no_follow()
            .read(&Self::path(places))
            .ok()?;
        let object = Members::parse(&bytes, &Bounds::RECORD).ok()?;
        Some(Self {
            made: Utc::parse_iso(&object.text("made")?)?,
            file: object.text("file").unwrap_or_default().into_owned(),
            rotated_at: object.text("rotated_at").unwrap_or_default().into_owned(),
        })
    }

    /// Notes it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn store(&self, places: &Places) -> Result<(), AppError> {
        let object = Members::of([
            ("made", Json::text(self.made.iso())),
            ("file", Json::text(&*self.file)),
            ("rotated_at", Json::text(&*self.rotated_at)),
        ]);
        let path = Self::path(places);
        if let Some(dir) = path.parent() {
            crate::store::files::dirs::ensure(dir)
                .map_err(|error| failed("create", dir, &error))?;
        }
        durable::write(&path, object.render().as_bytes(), &Perm::mode(0o644))
            .map_err(|error| failed("write", &path, &error))
    }
}

impl Due {
    /// Looks whether one is due. `paired` are the records of the agents.
    pub fn look<'a>(places: &Places, agents: impl IntoIterator<Item = &'a AgentRecord>) -> Self {
        let Some(last) = LastBackup::load(places) else {
            return Self::Never;
        };
        let made = last.made.iso();
        let mut since = Vec::new();
        let state = Bounded::new(1 << 16).text(&places.config().rotation_file());
        if let Ok(state) = state.map(|text| RotationState::of_text(&text)) {
            if state.rotated_at() > last.rotated_at.as_str() {
                since.push(format!("a rotation on {}", state.rotated_at()));
            }
        }
        let paired = |record: &&AgentRecord| record.paired() > made.as_str();
        let paired: Vec<String> = agents
            .into_iter()
            .filter(paired)
            .map(|record| record.name().to_owned())
            .collect();
        match paired.as_slice() {
            [] => {}
            [one] => since.push(format!("the pairing of '{one}'")),
            [one, rest @ ..] => {
                since.push(format!("the pairing of '{one}' and {} more", rest.len()));
            }
        }
        if revoked_after(places, last.made) {
            since.push("a revocation".to_owned());
        }
        if since.is_empty() {
            Self::No(last)
        } else {
            Self::Since(last, since.join(", "))
        }
    }
}

fn revoked_after(places: &Places, made: Utc) -> bool {
    let written = std::fs::metadata(revoked::path(places.config().root()))
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    written.is_some_and(|time| i64::try_from(time.as_secs()).is_ok_and(|at| at > made.0))
}
