//! What no script may change, whatever its profile: the directories that decide what may run.
//!
//! A directory that is read-only at its own path is not enough: whoever may write above it renames
//! an ancestor and puts another tree in its place. So every directory on the way to one becomes a
//! mount point, which the kernel lets nobody rename or remove, and a directory that holds a link on
//! the way becomes read-only itself, with what is below it as before.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::mounts::{self, Failed, step};
use crate::sys::MOUNT_NOSUID;
use crate::trusted_path::{Walk, walk};

/// The paths.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// Directories that are read-only for scripts; those that do not exist are skipped.
    pub control_dirs: Vec<PathBuf>,
    /// The executor's own socket, hidden from scripts: one that runs as uid 0 would be let in.
    pub socket: Option<PathBuf>,
}

impl Guarded {
    /// The control directories below `root`, and those that hold the configuration files. On
    /// OpenWrt `/etc` is an overlay whose upper layer can be reached by another path, so that path
    /// is closed too.
    pub fn new(root: &Path, conf: [&Path; 2], socket: Option<PathBuf>) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let root = absolute(root);
        let mut control_dirs: Vec<PathBuf> = [
            "etc/ctrl-exec-agent",
            "var/lib/ctrl-exec-agent",
            "overlay/upper/etc/ctrl-exec-agent",
            "overlay/upper/var/lib/ctrl-exec-agent",
        ]
        .iter()
        .map(|path| root.join(path))
        .collect();
        for file in conf {
            let file = absolute(file);
            if let Some(dir) = file.parent().filter(|dir| dir.parent().is_some()) {
                if !control_dirs.iter().any(|known| known == dir) {
                    control_dirs.push(dir.to_owned());
                }
            }
        }
        Self {
            control_dirs,
            socket,
        }
    }

    /// The control directory that a path would open: one that it contains, or that contains it.
    pub fn opened_by(&self, path: &Path) -> Option<&Path> {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let path = real(path);
        self.control_dirs
            .iter()
            .find(|dir| {
                let dir = real(dir);
                dir.starts_with(&path) || path.starts_with(&dir)
            })
            .map(PathBuf::as_path)
    }

    /// Guards everything. Comes last, when the view is otherwise complete.
    pub fn close(&self) -> Result<(), Failed> {
        let mut targets = Vec::new();
        for dir in &self.control_dirs {
            let found = step(format!("examine '{}'", dir.display()), found(dir))?;
            targets.extend(found.filter(Walk::is_dir));
        }
        let socket = match &self.socket {
            Some(socket) => step("examine the executor's socket", found(socket))?,
            None => None,
        };
        let (mut ways, mut links) = (BTreeSet::new(), BTreeSet::new());
        for dir in targets.iter().chain(&socket).flat_map(|walk| &walk.dirs) {
            ways.insert(dir.path.clone());
            if dir.holds_link {
                links.insert(dir.path.clone());
            }
        }
        let targets: BTreeSet<PathBuf> = targets.into_iter().map(|walk| walk.real).collect();
        self.pin_ways(&ways, &links, &targets)?;
        for dir in &targets {
            mounts::pin(dir)?;
            let what = format!("make '{}' read-only", dir.display());
            step(what, mounts::read_only(dir, true, MOUNT_NOSUID))?;
        }
        socket.map_or(Ok(()), |socket| mounts::hide_socket(&socket.real))
    }

    fn pin_ways(
        &self,
        ways: &BTreeSet<PathBuf>,
        links: &BTreeSet<PathBuf>,
        targets: &BTreeSet<PathBuf>,
    ) -> Result<(), Failed> {
        let table = step("read the mount table", mounts::mount_table())?;
        let mut points: BTreeSet<PathBuf> = table.into_iter().map(|mount| mount.point).collect();
        let mut pin = |dir: &Path| match points.insert(dir.to_owned()) {
            true => mounts::pin(dir),
            false => Ok(()),
        };
        // In order of the path, so what is above comes first.
        for dir in ways.iter().filter(|dir| dir.parent().is_some()) {
            if !targets.contains(dir) {
                pin(dir)?;
            }
        }
        for dir in links {
            let what = || format!("keep the links in '{}'", dir.display());
            for entry in step(what(), std::fs::read_dir(dir))? {
                let entry = step(what(), entry)?;
                if step(what(), entry.file_type())?.is_dir() {
                    pin(&entry.path())?;
                }
            }
            step(what(), mounts::read_only(dir, false, 0))?;
        }
        Ok(())
    }
}

/// None when there is nothing at the path.
fn found(path: &Path) -> io::Result<Option<Walk>> {
    match walk(path) {
        Ok(walk) => Ok(Some(walk)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_of_the_configuration_are_guarded_wherever_they_are() {
        let guarded = |agent: &str, scripts: &str| {
            let conf = [Path::new(agent), Path::new(scripts)];
            Guarded::new(Path::new("/r"), conf, None).control_dirs
        };
        let standard = guarded(
            "/r/etc/ctrl-exec-agent/agent.conf",
            "/r/etc/ctrl-exec-agent/scripts.conf",
        );
        assert_eq!(standard.len(), 4);
        assert_eq!(guarded("/a/agent.conf", "/b/scripts.conf").len(), 6);
        assert_eq!(
            guarded("/a/agent.conf", "/a/scripts.conf")[4],
            Path::new("/a")
        );
        assert_eq!(guarded("/agent.conf", "/scripts.conf").len(), 4);
    }

    #[test]
    fn what_contains_a_control_directory_is_known() {
        let guarded = Guarded::new(
            Path::new("/"),
            [Path::new("/x/y/a"), Path::new("/x/y/b")],
            None,
        );
        for path in [
            "/var",
            "/var/lib",
            "/",
            "/x",
            "/x/y",
            "/x/y/z",
            "/var/lib/ctrl-exec-agent/s",
        ] {
            assert!(guarded.opened_by(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/var/lib/ctrl-exec", "/srv", "/x/z", "/x/yy"] {
            assert!(guarded.opened_by(Path::new(path)).is_none(), "{path}");
        }
    }
}
