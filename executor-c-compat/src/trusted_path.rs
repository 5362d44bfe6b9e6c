//! Who could change what a path leads to: as sudo, the executor obeys and runs only what root alone
//! can change.
//!
//! A path is walked component by component, each opened below the descriptor of the one before and
//! never through a link that the kernel resolves by itself. A directory that only root may write
//! keeps its entries; so when every directory on the way is one, the path found means the same file
//! until root changes it, and may be given to `execve`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;

use crate::sys;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// A directory on the way, `/` first.
pub struct Dir {
    /// Its own path, without links.
    pub path: PathBuf,
    /// Whether a symbolic link in it was followed.
    pub holds_link: bool,
    stat: Stat,
}

/// A path, resolved.
pub struct Walk {
    /// Absolute, without links and `..`.
    pub real: PathBuf,
    /// Every directory that was passed through, those that hold links included.
    pub dirs: Vec<Dir>,
    /// What was found.
    stat: Stat,
}

impl Walk {
    /// Whether a directory was found.
    pub fn is_dir(&self) -> bool {
        kind(&self.stat) == FileType::Directory
    }

    /// Whether it is the same file.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.stat.st_dev, self.stat.st_ino) == (other.stat.st_dev, other.stat.st_ino)
    }
}

/// Walks an absolute path.
///
/// # Errors
/// The system's, as `open` would have it.
pub fn walk(path: &Path) -> io::Result<Walk> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut root = Dir::open("/", flags)?;
    root.0.path = PathBuf::from("/");
    let mut dirs = vec![root.0];
    // Where the walk is: indices into `dirs` and descriptors, from `/` down.
    let mut stack = vec![(0, root.1)];
    let mut todo: Vec<OsString> = parts(path);
    if !path.is_absolute() {
        return Err(Errno::INVAL.into());
    }
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let Some((at, dir)) = stack.last() else {
            return Err(Errno::INVAL.into());
        };
        let file = openat(dir, &part, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let real = dirs[*at].path.join(&part);
        match kind(&stat) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                dirs[*at].holds_link = true;
                let target = readlinkat(&file, "", Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                if target.is_absolute() {
                    stack.truncate(1);
                }
                todo.extend(parts(&target));
            }
            FileType::Directory => {
                let known = dirs.iter().position(|dir| dir.path == real);
                let index = known.unwrap_or_else(|| {
                    dirs.push(Dir {
                        path: real,
                        holds_link: false,
                        stat,
                    });
                    dirs.len() - 1
                });
                stack.push((index, file));
            }
            _ if !todo.is_empty() => return Err(Errno::NOTDIR.into()),
            _ => {
                return Ok(Walk { real, dirs, stat });
            }
        }
    }
    let (at, file) = stack.pop().ok_or(Errno::INVAL)?;
    Ok(Walk {
        real: dirs[at].path.clone(),
        stat: fstat(&file)?,
        dirs,
    })
}

impl Dir {
    fn open(path: &str, flags: OFlags) -> io::Result<(Self, OwnedFd)> {
        let file = openat(CWD, path, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let dir = Self {
            path: PathBuf::new(),
            holds_link: false,
            stat,
        };
        Ok((dir, file))
    }
}

/// The parts of a path, last one first; `.` and the root left out.
fn parts(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
            _ => None,
        })
        .collect();
    parts.reverse();
    parts
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Who may change scripts and directories above them, besides root.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Writers {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Writers {
    /// The names of `script_writers`; groups stand after `%`.
    ///
    /// # Errors
    /// A sentence: a name that does not exist.
    pub fn of(names: &[String]) -> Result<Self, String> {
        let mut writers = Self::default();
        for name in names {
            let (list, id) = match name.strip_prefix('%') {
                Some(group) => (&mut writers.gids, sys::group_by_name(group)),
                None => {
                    let user = sys::user_by_name(name).map(|user| user.map(|user| user.uid));
                    (&mut writers.uids, user)
                }
            };
            match id {
                Ok(Some(id)) => list.push(id),
                Ok(None) => return Err(format!("script_writers: '{name}' does not exist")),
                Err(error) => return Err(format!("script_writers: '{name}': {error}")),
            }
        }
        Ok(writers)
    }
}

/// A file or directory that somebody may change who should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    path: PathBuf,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Owner(u32),
    Group(u32),
    Everybody,
    NotAFile,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.by {
            By::Owner(uid) => write!(f, "{path} belongs to uid {uid}, who may change it"),
            By::Group(gid) => write!(f, "group {gid} may write {path}"),
            By::Everybody => write!(f, "everybody may write {path}"),
            By::NotAFile => write!(f, "{path} is not a regular file"),
        }
    }
}

impl Walk {
    /// Who could change the configuration file that was found, or put another in its place.
    pub fn exposed_conf(&self) -> Vec<Exposed> {
        self.exposed(&Writers::default(), None)
    }

    /// The same for a script that runs as the user `owner`, who may own the file.
    pub fn exposed_script(&self, writers: &Writers, owner: u32) -> Vec<Exposed> {
        self.exposed(writers, Some(owner))
    }

    fn exposed(&self, writers: &Writers, owner: Option<u32>) -> Vec<Exposed> {
        let judge = |path: &Path, stat: &Stat, owner: Option<u32>| {
            let by = exposed_by(stat, writers, owner)?;
            let path = path.to_owned();
            Some(Exposed { path, by })
        };
        let mut found: Vec<_> = self
            .dirs
            .iter()
            .filter_map(|dir| judge(&dir.path, &dir.stat, None))
            .collect();
        if kind(&self.stat) == FileType::RegularFile {
            found.extend(judge(&self.real, &self.stat, owner));
        } else {
            found.push(Exposed {
                path: self.real.clone(),
                by: By::NotAFile,
            });
        }
        found
    }
}

/// Write permission for an entry of an access control list shows in the group's bits (acl(5)), so
/// it counts as the group's.
fn exposed_by(stat: &Stat, writers: &Writers, owner: Option<u32>) -> Option<By> {
    let (uid, gid) = (stat.st_uid, stat.st_gid);
    if uid != 0 && Some(uid) != owner && !writers.uids.contains(&uid) {
        Some(By::Owner(uid))
    } else if stat.st_mode & 0o002 != 0 {
        // The sticky bit keeps others from renaming, not from adding.
        Some(By::Everybody)
    } else if stat.st_mode & 0o020 != 0 && !writers.gids.contains(&gid) {
        Some(By::Group(gid))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_what_the_kernel_finds() {
        let dir = std::env::temp_dir().join(format!("exec-walk-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::write(dir.join("a/b/file"), "").unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        };
        link("a", "relative");
        link(dir.join("a/b").to_str().unwrap(), "a/absolute");
        link("../a/./b/../b/file", "a/up");
        link("loop", "loop");
        link("/gone", "gone");
        for path in [
            "a/b/file",
            "relative/b/file",
            "relative/absolute/file",
            "a/up",
            "a/b/../b/./file",
            "a/b",
            "relative",
        ] {
            let path = dir.join(path);
            let found = walk(&path).unwrap();
            assert_eq!(found.real, path.canonicalize().unwrap(), "{path:?}");
            assert_eq!(found.is_dir(), path.is_dir());
        }
        let held: Vec<_> = walk(&dir.join("relative/absolute/file"))
            .unwrap()
            .dirs
            .into_iter()
            .filter(|dir| dir.holds_link)
            .map(|dir| dir.path)
            .collect();
        assert_eq!(held, [dir.clone(), dir.join("a")]);
        for (path, errno) in [
            ("loop", libc::ELOOP),
            ("gone", libc::ENOENT),
            ("a/b/file/x", libc::ENOTDIR),
        ] {
            let error = walk(&dir.join(path)).err().unwrap();
            assert_eq!(error.raw_os_error(), Some(errno), "{path}");
        }
        assert!(walk(Path::new("a")).is_err());
        assert_eq!(walk(Path::new("/..")).unwrap().real, Path::new("/"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn owners_groups_and_others() {
        let stat = |uid, gid, mode| {
            let mut stat = walk(Path::new("/")).unwrap().stat;
            (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, gid, mode);
            stat
        };
        let writers = Writers {
            uids: vec![7],
            gids: vec![50],
        };
        let by = |stat, owner| exposed_by(&stat, &writers, owner);
        assert_eq!(by(stat(0, 0, 0o755), None), None);
        assert_eq!(by(stat(0, 0, 0o1777), None), Some(By::Everybody));
        assert_eq!(by(stat(0, 0, 0o775), None), Some(By::Group(0)));
        assert_eq!(by(stat(0, 50, 0o775), None), None);
        assert_eq!(by(stat(0, 50, 0o777), None), Some(By::Everybody));
        assert_eq!(by(stat(7, 7, 0o755), None), None);
        assert_eq!(by(stat(8, 8, 0o555), None), Some(By::Owner(8)));
        assert_eq!(by(stat(8, 8, 0o755), Some(8)), None);
        assert_eq!(by(stat(8, 8, 0o775), Some(8)), Some(By::Group(8)));
        assert!(Writers::of(&["no-such-user-x".to_owned()]).is_err());
        let root = Writers::of(&["root".to_owned(), "%root".to_owned()]).unwrap();
        assert_eq!((root.uids, root.gids), (vec![0], vec![0]));
    }
}
