//! A backup as one file: a tar archive that begins with a manifest.

use super::place::{Folder, FolderItem, Item, Place};
use ctrl_exec_protocol::json::{Bounds, Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::collections::HashSet;
use std::io::Read;
use tar::{Builder, EntryType, Header};
use zeroize::Zeroizing;

const MANIFEST: &str = "manifest.json";
/// Most bytes of a manifest.
const MAX_MANIFEST: u64 = 1 << 16;
/// Most files of an archive.
const MAX_ITEMS: usize = 1_000_000;
const FORMAT: &str = "ctrl-exec";
const VERSION: i64 = 1;

/// What an archive is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A whole dispatcher.
    Backup,
    /// The CA, for another dispatcher.
    Ca,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Ca => "ca",
        }
    }
}

/// What an archive says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// What it is for.
    pub kind: Kind,
    /// When it was made.
    pub made: Utc,
    /// Host name of the dispatcher.
    pub host: String,
    /// Its id.
    pub dispatcher_id: String,
    /// Serial of its certificate, or empty.
    pub serial: String,
    /// Version of the program that made it.
    pub program: String,
}

/// Everything in a backup.
#[derive(Debug)]
pub struct Archive {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The files.
    pub items: Vec<Item>,
    /// The directories.
    pub folders: Vec<FolderItem>,
}

impl Archive {
    /// The file with this place.
    pub fn get(&self, place: &Place) -> Option<&Item> {
        self.items.iter().find(|item| item.place == *place)
    }

    /// The text of a file.
    pub fn text(&self, place: &Place) -> Option<&str> {
        self.get(place)
            .and_then(|item| std::str::from_utf8(&item.data).ok())
    }

    /// The names of the agents.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.items.iter().filter_map(|item| match &item.place {
            Place::Agent(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// How many runs.
    pub fn runs(&self) -> usize {
        let run = |item: &&Item| matches!(item.place, Place::Run(_));
        self.items.iter().filter(run).count()
    }

    /// The archive as a file.
    ///
    /// # Errors
    /// In words; a name that does not fit.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let size: usize = self.items.iter().map(|item| item.data.len() + 1024).sum();
        let mut builder = Builder::new(Vec::with_capacity(size + 8192));
        let made = self.manifest.made;
        let mut add = |header: &mut Header, name: &str, data: &[u8]| {
            header.set_mtime(u64::try_from(made.0).unwrap_or_default());
            header.set_size(data.len() as u64);
            builder
                .append_data(header, name, data)
                .map_err(|error| format!("{name}: {error}"))
        };
        let manifest = self.manifest.to_json();
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        add(&mut header, MANIFEST, manifest.as_bytes())?;
        for folder in &self.folders {
            let mut header = owned(&folder.user, &folder.group, folder.mode);
            header.set_entry_type(EntryType::Directory);
            add(&mut header, &format!("{}/", folder.folder.name()), &[])?;
        }
        for item in &self.items {
            let mut header = owned(&item.user, &item.group, item.mode);
            header.set_entry_type(EntryType::Regular);
            add(&mut header, &item.place.name(), &item.data)?;
        }
        let bytes = builder.into_inner().map_err(|error| error.to_string())?;
        Ok(Zeroizing::new(bytes))
    }

    /// Reads an archive. Whatever is not exactly a file of a dispatcher is refused: other names,
    /// links, devices, sizes beyond what such a file has, the same file twice.
    ///
    /// # Errors
    /// In words: what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut archive = tar::Archive::new(bytes);
        let mut entries = archive.entries().map_err(|error| error.to_string())?;
        let manifest = match entries.next() {
            Some(Ok(mut entry)) if &*entry.path_bytes() == MANIFEST.as_bytes() => {
                let text = content(&mut entry, MAX_MANIFEST)?;
                Manifest::parse(&text)?
            }
            _ => return Err("no backup of ctrl-exec".to_owned()),
        };
        let mut parsed = Self {
            manifest,
            items: Vec::new(),
            folders: Vec::new(),
        };
        let mut seen = HashSet::new();
        for entry in entries {
            let mut entry = entry.map_err(|error| format!("damaged: {error}"))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let header = entry.header();
            let kind = header.entry_type();
            let mode = header
                .mode()
                .map_err(|error| format!("{name:?}: {error}"))?;
            let (user, group) = (
                word(header.username_bytes()),
                word(header.groupname_bytes()),
            );
            let (Some(user), Some(group)) = (user, group) else {
                return Err(format!("{name:?}: it has no owner"));
            };
            if kind == EntryType::Directory {
                let folder = Folder::parse(&name)
                    .ok_or_else(|| format!("{name:?} is no directory of a dispatcher"))?;
                parsed.folders.push(FolderItem {
                    folder,
                    mode: mode & 0o2775,
                    user,
                    group,
                });
                continue;
            }
            if kind != EntryType::Regular {
                return Err(format!("{name:?} is no plain file"));
            }
            let place = Place::parse(&name)
                .ok_or_else(|| format!("{name:?} is no file of a dispatcher"))?;
            let data =
                content(&mut entry, place.most()).map_err(|error| format!("{name:?}: {error}"))?;
            if !seen.insert(place.clone()) {
                return Err(format!("{name:?} is there twice"));
            }
            if seen.len() > MAX_ITEMS {
                return Err(format!("more than {MAX_ITEMS} files"));
            }
            let mode = if place.is_secret() {
                mode & 0o600
            } else {
                mode & 0o775
            };
            parsed.items.push(Item {
                place,
                mode,
                user,
                group,
                data,
            });
        }
        Ok(parsed)
    }
}

fn owned(user: &str, group: &str, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    // Names of more than 31 bytes do not fit; such an owner is told by its absence.
    let _ = header.set_username(user);
    let _ = header.set_groupname(group);
    header
}

fn word(bytes: Option<&[u8]>) -> Option<String> {
    let text = std::str::from_utf8(bytes?).ok()?;
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-$".contains(&b));
    good.then(|| text.to_owned())
}

fn content(entry: &mut impl Entry, most: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let size = entry.size();
    if size > most {
        return Err(format!("{size} bytes; such a file has {most} at most"));
    }
    let mut data = Zeroizing::new(Vec::new());
    entry
        .take(most)
        .read_to_end(&mut data)
        .map_err(|error| error.to_string())?;
    if data.len() as u64 != size {
        return Err("cut short".to_owned());
    }
    Ok(data)
}

/// A file of a tar archive.
trait Entry: Read + Sized {
    fn size(&self) -> u64;
}

impl<R: Read> Entry for tar::Entry<'_, R> {
    fn size(&self) -> u64 {
        self.size()
    }
}

impl Manifest {
    fn to_json(&self) -> String {
        let object: Members = Members::of([
            ("format", Json::text(FORMAT)),
            ("version", Json::integer(VERSION)),
            ("kind", Json::text(self.kind.word())),
            ("made", Json::text(self.made.iso())),
            ("host", Json::text(&*self.host)),
            ("dispatcher_id", Json::text(&*self.dispatcher_id)),
            ("serial", Json::text(&*self.serial)),
            ("program", Json::text(&*self.program)),
        ]);
        object.render()
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let foreign = || "no backup of ctrl-exec".to_owned();
        let object = Members::parse(text, &Bounds::RECORD)
            .ok()
            .ok_or_else(foreign)?;
        let text = |key| object.text(key).unwrap_or_default().into_owned();
        if text("format") != FORMAT {
            return Err(foreign());
        }
        match object.integer("version") {
            Some(VERSION) => {}
            other => {
                return Err(format!(
                    "its format has version {}; this program knows {VERSION}",
                    other.unwrap_or_default()
                ));
            }
        }
        let kinds = [Kind::Backup, Kind::Ca];
        let kind = kinds.into_iter().find(|kind| kind.word() == text("kind"));
        Ok(Self {
            kind: kind.ok_or_else(foreign)?,
            made: Utc::parse_iso(&text("made")).ok_or_else(foreign)?,
            host: text("host"),
            dispatcher_id: text("dispatcher_id"),
            serial: text("serial"),
            program: text("program"),
        })
    }
}

#[cfg(test)]
mod tests;
