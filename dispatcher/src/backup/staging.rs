//! Putting a backup in place, so that a crash at any moment leaves the old state or leads to the
//! new one.
//!
//! Everything is first written into `/var/lib/ctrl-exec/.restore`, with what is replaced beside it.
//! Then a note says that it holds; from there on the way leads only forward. The files are put in
//! their places, however often that has to be begun again, and the note goes last. Every command
//! looks for the note before it does anything else.

use super::archive::Archive;
use super::lists;
use super::owners::Owners;
use super::place::{Folder, Place};
use super::places::{Places, STATE};
use super::snapshot::{entries, failed, hold};
use crate::ca;
use crate::config::Config;
use crate::model::AppError;
use crate::store::files::dirs;
use crate::store::files::registry::Registry;
use crate::trust;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::json::{Bounds, Json, Members};
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const DIR: &str = ".restore";
const LOCK: &str = ".restore.lock";
const CONTENT: &str = "content.tar";
const BEFORE: &str = "before.tar";
const NOTE: &str = "commit.json";
/// Largest staged archive: what a backup may have, and its headers.
const MAX_CONTENT: u64 = 1 << 30;

/// A restore that is prepared and has changed nothing yet.
#[derive(Debug)]
pub struct Staging {
    root: Root,
    dir: PathBuf,
    _lock: Lock,
}

/// A restore that is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// Where what was replaced is kept, if there was something.
    pub kept: Option<PathBuf>,
}

/// Where the files of a backup go: by the configuration it holds, else by the host's.
///
/// # Errors
/// A configuration of this host that cannot be read.
pub fn restored_from(
    root: &Root,
    config: Option<&Path>,
    archive: &Archive,
) -> Result<Places, AppError> {
    let path = config.map_or_else(|| root.path(crate::config::DEFAULT_PATH), Path::to_owned);
    Ok(Places::of(match archive.get(&Place::Config) {
        Some(item) => Config::of_bytes(root, path, &item.data),
        None => Config::load(root, config)?,
    }))
}

impl Staging {
    /// Writes everything aside. `bytes` are the archive; `before` is what is there now.
    ///
    /// # Errors
    /// The operating system's, another restore under way, or owners that this host does not have.
    pub fn prepare(
        root: &Root,
        config: Option<&Path>,
        bytes: &[u8],
        archive: &Archive,
        before: Option<&Archive>,
    ) -> Result<Self, AppError> {
        owners_exist(archive)?;
        let state = root.path(STATE);
        dirs::ensure(&state).map_err(|error| failed("create", &state, &error))?;
        let path = state.join(LOCK);
        let lock = lock::open(&path, 0o600)
            .and_then(|file| lock::attempt(file, Kind::Exclusive))
            .map_err(|error| failed("lock", &path, &error))?
            .ok_or_else(|| AppError::system("another restore is under way"))?;
        let dir = state.join(DIR);
        remove_all(&dir)?;
        let staging = Self {
            root: root.clone(),
            dir,
            _lock: lock,
        };
        staging.fill(config, bytes, before).inspect_err(|_| {
            let _ = fs::remove_dir_all(&staging.dir);
        })?;
        Ok(staging)
    }

    fn fill(
        &self,
        config: Option<&Path>,
        bytes: &[u8],
        before: Option<&Archive>,
    ) -> Result<(), AppError> {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.dir)
            .map_err(|error| failed("create", &self.dir, &error))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = self.dir.join(name);
            durable::write(&path, bytes, &Perm::mode(0o600))
                .map_err(|error| failed("write", &path, &error))
        };
        write(CONTENT, bytes)?;
        if let Some(before) = before {
            write(BEFORE, &before.to_bytes().map_err(AppError::system)?)?;
        }
        // What is to come takes as much room again.
        let room = rustix::fs::statvfs(&self.dir).map(|stat| stat.f_bavail * stat.f_frsize);
        if room.is_ok_and(|room| room < bytes.len() as u64 + (1 << 16)) {
            return Err(AppError::system(format!(
                "{}: not enough room; nothing was changed",
                self.dir.display()
            )));
        }
        let config = config.map(|path| std::path::absolute(path).unwrap_or(path.to_owned()));
        let note = Members::of([(
            "config",
            Json::text(config.unwrap_or_default().to_string_lossy()),
        )]);
        write("note.json", note.render().as_bytes())
    }

    /// Puts everything in its place.
    ///
    /// # Errors
    /// The operating system's. When the first step fails nothing was changed; after it the next
    /// command goes on.
    pub fn commit(self) -> Result<Restored, AppError> {
        let note = self.dir.join(NOTE);
        fs::rename(self.dir.join("note.json"), &note)
            .and_then(|()| durable::sync_dir(&self.dir))
            .map_err(|error| failed("write", &note, &error))?;
        apply(&self.root, &self.dir)
    }

    /// Gives it up; nothing was changed.
    pub fn abandon(self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Ends a restore that a crash left half done. `None` when there is none.
///
/// # Errors
/// That it cannot be ended, which nothing else should be done before.
pub fn finish_interrupted(root: &Root) -> Result<Option<Restored>, AppError> {
    let state = root.path(STATE);
    let dir = state.join(DIR);
    if !dir.exists() {
        return Ok(None);
    }
    let path = state.join(LOCK);
    let unfinished = |error: AppError| {
        AppError::system(format!(
            "a restore was begun and is not complete: {}. Any command of root's completes it",
            error.message
        ))
    };
    let file = lock::open(&path, 0o600).map_err(|error| failed("lock", &path, &error));
    if !dir.join(NOTE).exists() {
        // One that is being prepared, or was given up: then nothing was changed.
        if let Ok(Ok(Some(_lock))) = file.map(|file| lock::attempt(file, Kind::Exclusive)) {
            if !dir.join(NOTE).exists() {
                let _ = fs::remove_dir_all(&dir);
            }
        }
        return Ok(None);
    }
    let _lock = file
        .and_then(|file| {
            lock::wait(file, Kind::Exclusive).map_err(|error| failed("lock", &path, &error))
        })
        .map_err(unfinished)?;
    if !dir.join(NOTE).exists() {
        return Ok(None);
    }
    apply(root, &dir).map(Some).map_err(unfinished)
}

/// Everything after the note. May be begun again at any point.
fn apply(root: &Root, dir: &Path) -> Result<Restored, AppError> {
    let read = |name: &str, most| {
        let path = dir.join(name);
        Bounded::new(most)
            .no_follow()
            .optional(&path)
            .map_err(|error| failed("read", &path, &error))
    };
    let note = read(NOTE, 1 << 16)?.unwrap_or_default();
    let note = Members::parse(&note, &Bounds::RECORD).unwrap_or_default();
    let config = note.text("config").filter(|path| !path.is_empty());
    let bytes = read(CONTENT, MAX_CONTENT)?.unwrap_or_default();
    let archive = Archive::parse(&bytes).map_err(AppError::system)?;
    drop(bytes);
    let places = restored_from(root, config.as_deref().map(Path::new), &archive)?;
    let owners = Owners::of_system();
    for folder in &archive.folders {
        let path = places.folder(folder.folder);
        fs::create_dir_all(&path).map_err(|error| failed("create", &path, &error))?;
        let ids = ids(&owners, &folder.user, &folder.group);
        set_folder(&path, folder.mode, ids).map_err(|error| failed("change", &path, &error))?;
    }
    let _held = hold(&places)?;
    for item in &archive.items {
        let path = places.path(&item.place);
        let data = match &item.place {
            Place::State(name) => grown(name, &path, &item.data),
            _ => None,
        };
        let data = data.as_deref().unwrap_or(&item.data);
        let ids = ids(&owners, &item.user, &item.group);
        put(&path, data, item.mode, ids).map_err(|error| failed("write", &path, &error))?;
    }
    remove_others(&places, &archive)?;
    // Serials that were given out after the backup must not be given out again.
    if archive.get(&Place::Ca("ca.crt".to_owned())).is_some() {
        ca::new_counter(&places.ca())?;
    }
    settle(&places)?;
    let kept = keep(root, dir)?;
    let note = dir.join(NOTE);
    durable::remove(&note).map_err(|error| failed("remove", &note, &error))?;
    remove_all(dir)?;
    Ok(Restored { kept })
}

/// A list that keeps what is on it.
fn grown(name: &str, path: &Path, backup: &[u8]) -> Option<Vec<u8>> {
    let present = Bounded::new(128 << 20).no_follow().text(path).ok()?;
    let backup = String::from_utf8_lossy(backup);
    lists::merged(name, &present, &backup).map(String::into_bytes)
}

/// Takes away what the backup does not have: it belongs to what was replaced.
fn remove_others(places: &Places, archive: &Archive) -> Result<(), AppError> {
    let wanted: HashSet<&Place> = archive.items.iter().map(|item| &item.place).collect();
    let mut others = vec![Place::PreviousCert, Place::PreviousKey, Place::Rotation];
    let names = entries(&places.config().ca_dir())?;
    others.extend(names.iter().filter_map(|name| Place::of_ca(name)));
    let state = places.folder(Folder::State);
    for name in entries(&state)? {
        if lists::merged(&name, "", "").is_none() {
            others.extend(places.state_of(&state.join(name)));
        }
    }
    let agents = Registry::new(places.folder(Folder::Agents)).names()?;
    others.extend(agents.into_iter().map(Place::Agent));
    let files = trust::identity_files(places.config()).suffixed(".new");
    let unfinished = [files.cert, files.key];
    let paths = others
        .iter()
        .filter(|place| !wanted.contains(place))
        .map(|place| places.path(place))
        .chain(unfinished);
    for path in paths {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes everything durable at once.
fn settle(places: &Places) -> Result<(), AppError> {
    let mut dirs: HashSet<PathBuf> = Folder::ALL
        .into_iter()
        .map(|folder| places.folder(folder))
        .collect();
    for place in [Place::Config, Place::Cert, Place::Trust, Place::Rotation] {
        dirs.extend(places.path(&place).parent().map(Path::to_owned));
    }
    dirs.insert(places.config().ca_dir());
    for dir in dirs.into_iter().filter(|dir| dir.is_dir()) {
        fs::File::open(&dir)
            .and_then(|file| Ok(rustix::fs::syncfs(file)?))
            .map_err(|error| failed("sync", &dir, &error))?;
    }
    Ok(())
}

/// Keeps what was replaced, beside the state, under a name of its own.
fn keep(root: &Root, dir: &Path) -> Result<Option<PathBuf>, AppError> {
    let before = dir.join(BEFORE);
    let Ok(meta) = fs::metadata(&before) else {
        return Ok(None);
    };
    // Of the file, so that a second try finds the same name.
    let written = meta.modified().ok();
    let seconds = written
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |time| time.as_secs());
    let state = root.path(STATE);
    let kept = state.join(format!("before-restore-{seconds}.tar"));
    fs::rename(&before, &kept)
        .and_then(|()| durable::sync_dir(&state))
        .map_err(|error| failed("write", &kept, &error))?;
    Ok(Some(kept))
}

fn owners_exist(archive: &Archive) -> Result<(), AppError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owners = Owners::of_system();
    let items = archive.items.iter().map(|item| (&item.user, &item.group));
    let folders = archive.folders.iter();
    let folders = folders.map(|folder| (&folder.user, &folder.group));
    let pairs: HashSet<(&String, &String)> = items.chain(folders).collect();
    for (user, group) in pairs {
        owners.ids(user, group).map_err(|missing| {
            AppError::system(format!(
                "files of the backup belong to {missing}, which this host does not have: make it \
                 first; nothing was changed"
            ))
        })?;
    }
    Ok(())
}

/// Only root can give files away.
fn ids(owners: &Owners, user: &str, group: &str) -> Option<(u32, u32)> {
    let root = rustix::process::geteuid().is_root();
    root.then(|| owners.ids(user, group).ok()).flatten()
}

/// Replaces a file; durable only after [`settle`].
fn put(path: &Path, data: &[u8], mode: u32, ids: Option<(u32, u32)>) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !dir.is_dir() {
        fs::create_dir_all(dir)?;
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temp = dir.join(format!(".{}.restore.tmp", name.to_string_lossy()));
    let _ = fs::remove_file(&temp);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(data)?;
    if let Some((uid, gid)) = ids {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fchmod(&file, Mode::from_raw_mode(mode))?;
    drop(file);
    fs::rename(&temp, path)
}

fn set_folder(path: &Path, mode: u32, ids: Option<(u32, u32)>) -> io::Result<()> {
    let file = fs::File::open(path)?;
    if let Some((uid, gid)) = ids {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // A set-group-ID bit that the file system refuses is no reason to stop.
    fchmod(&file, Mode::from_raw_mode(mode))
        .or_else(|_| fchmod(&file, Mode::from_raw_mode(mode & 0o777)))?;
    Ok(())
}

fn remove_all(dir: &Path) -> Result<(), AppError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir, &error)),
        _ => Ok(()),
    }
}
