//! Where the files of a dispatcher lie.

use super::place::{Folder, Place};
use crate::ca::CaDir;
use crate::config::{Config, DEFAULT_DIR};
use crate::store::files::{issued, registry, revoked, runs};
use crate::trust;
use std::path::{Component, Path, PathBuf};

/// Where everything else is kept, below the root.
pub const STATE: &str = "/var/lib/ctrl-exec";

/// The files of one dispatcher.
#[derive(Clone, Debug)]
pub struct Places {
    config: Config,
}

impl Places {
    /// Those of the dispatcher with this configuration.
    pub fn of(config: Config) -> Self {
        Self { config }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The CA's files.
    pub fn ca(&self) -> CaDir {
        CaDir::new(self.config.ca_dir())
    }

    /// The path of a file.
    pub fn path(&self, place: &Place) -> PathBuf {
        let files = trust::identity_files(&self.config);
        match place {
            Place::Config => self.config.path().to_owned(),
            Place::Cert => files.cert,
            Place::Key => files.key,
            Place::PreviousCert => files.suffixed(".prev").cert,
            Place::PreviousKey => files.suffixed(".prev").key,
            Place::Trust => self.config.ca(),
            Place::Ca(name) => self.config.ca_dir().join(name),
            Place::Rotation => self.config.rotation_file(),
            Place::State(name) => self.folder(Folder::State).join(name),
            Place::Agent(name) => self.folder(Folder::Agents).join(format!("{name}.json")),
            Place::Run(id) => self.folder(Folder::Runs).join(format!("{id}.json")),
        }
    }

    /// The path of a directory.
    pub fn folder(&self, folder: Folder) -> PathBuf {
        let path = match folder {
            Folder::Etc => DEFAULT_DIR,
            Folder::State => STATE,
            Folder::Agents => registry::DIR,
            Folder::Runs => runs::DIR,
        };
        self.config.root().path(path)
    }

    /// The files that are locked while a picture is taken, in the order in which every command
    /// takes them.
    pub fn locks(&self) -> Vec<PathBuf> {
        let root = self.config.root();
        vec![
            self.config.rotation_file().with_extension("lock"),
            self.ca().serial(),
            root.path(issued::PATH).with_extension("lock"),
            root.path(revoked::PATH).with_extension("lock"),
            self.folder(Folder::Agents).join(".registry.lock"),
            self.folder(Folder::Runs).join(".runs.lock"),
        ]
    }

    /// Whether the file's path is one of a dispatcher's own directories. A configuration can name
    /// any other; that of a backup is followed there only when the host has it already.
    pub fn is_own(&self, place: &Place) -> bool {
        let path = self.path(place);
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let below = |folder| path.starts_with(self.folder(folder));
        let named = *place == Place::Config;
        named || plain && (below(Folder::Etc) || below(Folder::State))
    }

    /// The name of a path, if it is a file of the state directory that has no other place.
    pub fn state_of(&self, path: &Path) -> Option<Place> {
        if path == self.config.rotation_file() {
            return None;
        }
        Place::of_state(path.file_name()?.to_str()?)
    }
}
