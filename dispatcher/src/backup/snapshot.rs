//! A picture of a dispatcher at one moment: everything is read while all locks are held.

use super::archive::{Archive, Kind, Manifest};
use super::owners::Owners;
use super::place::{Folder, FolderItem, Item, Place};
use super::places::Places;
use crate::ca::{self, Authority, CaDir};
use crate::model::AppError;
use crate::store::files::registry::Registry;
use crate::trust;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::hostname;
use ctrl_exec_host::lock::{self, Lock};
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// How long a lock is waited for; every command holds it for less.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of runs that a backup takes, in bytes; the newest first.
const MAX_RUNS: u64 = 64 << 20;
/// Most bytes of a whole backup.
const MAX_ALL: u64 = 512 << 20;

/// What was found, and what is worth a word about it.
#[derive(Debug)]
pub struct Picture {
    /// The files.
    pub archive: Archive,
    /// In words: what is missing.
    pub notes: Vec<String>,
}

/// Takes all the locks, in the order of every command.
pub(super) fn hold(places: &Places) -> Result<Vec<Lock>, AppError> {
    let mut held = Vec::new();
    for path in places.locks() {
        let there = path.parent().is_some_and(Path::is_dir);
        // The CA's counter is its lock; whoever has no CA has none.
        let made = path != places.ca().serial();
        if !there || !made && !path.exists() {
            continue;
        }
        let file = if made {
            lock::open(&path, 0o660).or_else(|_| lock::open_existing(&path))
        } else {
            lock::open_existing(&path)
        };
        let taken = file.and_then(|file| lock::within(file, lock::Kind::Exclusive, PATIENCE));
        match taken {
            Ok(Some(lock)) => held.push(lock),
            Ok(None) => {
                return Err(AppError::system(format!(
                    "{} is held by another command for more than {} s; try again",
                    path.display(),
                    PATIENCE.as_secs()
                )));
            }
            Err(error) => return Err(failed("lock", &path, &error)),
        }
    }
    Ok(held)
}

/// A picture of everything. `sound`: what could not be put back to work is an error.
///
/// # Errors
/// What cannot be read, or does not belong together.
pub fn snapshot(places: &Places, runs: bool, sound: bool) -> Result<Picture, AppError> {
    let config = places.config();
    let files = trust::identity_files(config);
    let _held = hold(places)?;
    if sound {
        files.recover()?;
    }
    let mut reader = Reader::new(places);
    reader.lenient = !sound;
    for place in [
        Place::Config,
        Place::Cert,
        Place::Key,
        Place::PreviousCert,
        Place::PreviousKey,
        Place::Rotation,
    ] {
        reader.take(place)?;
    }
    for name in entries(&config.ca_dir())? {
        if let Some(place) = Place::of_ca(&name) {
            reader.take(place)?;
        }
    }
    if config.ca() != places.ca().cert() {
        reader.take(Place::Trust)?;
    }
    let state = places.folder(Folder::State);
    for name in entries(&state)? {
        if let Some(place) = places.state_of(&state.join(&name)) {
            reader.take(place)?;
        }
    }
    let agents = Registry::new(places.folder(Folder::Agents)).names()?;
    for name in agents {
        reader.take(Place::Agent(name))?;
    }
    let mut notes = Vec::new();
    if runs {
        let left = reader.take_runs()?;
        if left > 0 {
            notes.push(format!(
                "{left} older records of runs are left out: {} MiB are taken",
                MAX_RUNS >> 20
            ));
        }
    }
    if sound {
        check(places, &mut notes)?;
    }
    let folders = reader.folders();
    let archive = Archive {
        manifest: manifest(places, Kind::Backup),
        items: reader.items,
        folders,
    };
    Ok(Picture { archive, notes })
}

/// What an archive of this dispatcher says of itself.
pub(crate) fn manifest(places: &Places, kind: Kind) -> Manifest {
    let config = places.config();
    let cert = trust::identity_files(config).cert;
    Manifest {
        kind,
        made: Utc::now(),
        host: hostname::short(),
        dispatcher_id: config.dispatcher_id(),
        serial: ca::trust_serial(&cert).unwrap_or_default(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Reads one file as an item, if it is there.
pub(crate) fn read_item(places: &Places, place: Place) -> Result<Option<Item>, AppError> {
    let mut reader = Reader::new(places);
    reader.take(place)?;
    Ok(reader.items.pop())
}

/// A dispatcher that could not go on from this is not backed up in silence.
fn check(places: &Places, notes: &mut Vec<String>) -> Result<(), AppError> {
    trust::identity_files(places.config()).load()?;
    let dir: CaDir = places.ca();
    if dir.key().exists() {
        Authority::load(&dir)?;
    } else {
        notes.push(format!(
            "there is no {}: with this backup agents can be called, not paired or renewed",
            dir.key().display()
        ));
    }
    Ok(())
}

struct Reader<'a> {
    places: &'a Places,
    owners: Owners,
    items: Vec<Item>,
    total: u64,
    /// What cannot be read is left out.
    lenient: bool,
}

impl<'a> Reader<'a> {
    fn new(places: &'a Places) -> Self {
        Self {
            places,
            owners: Owners::of_system(),
            items: Vec::new(),
            total: 0,
            lenient: false,
        }
    }

    /// Takes a file, if it is there.
    fn take(&mut self, place: Place) -> Result<(), AppError> {
        match self.take_whole(place) {
            Err(_) if self.lenient => Ok(()),
            other => other,
        }
    }

    fn take_whole(&mut self, place: Place) -> Result<(), AppError> {
        let path = self.places.path(&place);
        // Links lead where the administrator wants, but not in directories of a group.
        let shared = matches!(place, Place::Agent(_) | Place::Run(_) | Place::State(_));
        let how = Bounded::new(place.most());
        let how = if shared { how.no_follow() } else { how };
        let file = match how.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let read = file
            .metadata()
            .and_then(|meta| Ok((meta, Zeroizing::new(how.read_from(&file)?))));
        let (meta, data) = read.map_err(|error| failed("read", &path, &error))?;
        self.total += data.len() as u64 + 512;
        if self.total > MAX_ALL {
            return Err(AppError::system(format!(
                "there is more than {} MiB to back up; --no-runs leaves the records of runs out",
                MAX_ALL >> 20
            )));
        }
        self.items.push(Item {
            place,
            mode: meta.mode() & 0o777,
            user: self.owners.user(meta.uid()),
            group: self.owners.group(meta.gid()),
            data,
        });
        Ok(())
    }

    /// Takes records of runs, the newest first; returns how many there was no room for.
    fn take_runs(&mut self) -> Result<usize, AppError> {
        let dir = self.places.folder(Folder::Runs);
        let mut found: Vec<(SystemTime, u64, String)> = Vec::new();
        for name in entries(&dir)? {
            let Some(id) = name.strip_suffix(".json").filter(|id| names::is_reqid(id)) else {
                continue;
            };
            if let Ok(meta) = fs::symlink_metadata(dir.join(&name)) {
                let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((written, meta.len(), id.to_owned()));
            }
        }
        found.sort();
        let (mut room, mut left) = (MAX_RUNS, 0);
        for (_, size, id) in found.into_iter().rev() {
            match room.checked_sub(size) {
                Some(rest) => {
                    room = rest;
                    self.take(Place::Run(id))?;
                }
                None => left += 1,
            }
        }
        Ok(left)
    }

    fn folders(&self) -> Vec<FolderItem> {
        let found = Folder::ALL.into_iter().filter_map(|folder| {
            let meta = fs::metadata(self.places.folder(folder)).ok()?;
            Some(FolderItem {
                folder,
                mode: meta.mode() & 0o2777,
                user: self.owners.user(meta.uid()),
                group: self.owners.group(meta.gid()),
            })
        });
        found.collect()
    }
}

/// The names of plain files in a directory, sorted. An absent one has none.
pub(super) fn entries(dir: &Path) -> Result<Vec<String>, AppError> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", dir, &error)),
    };
    let mut names = Vec::new();
    for entry in read {
        let entry = entry.map_err(|error| failed("read", dir, &error))?;
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let (false, Some(name)) = (folder, entry.file_name().to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

pub(super) fn failed(doing: &str, path: &Path, error: &io::Error) -> AppError {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => " (try sudo)",
        _ => "",
    };
    AppError::system(format!("cannot {doing} {}: {error}{hint}", path.display()))
}
