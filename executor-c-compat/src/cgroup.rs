//! Control groups: one for each run, where the system has them.
//!
//! Three things come from them: ending everything at once (`cgroup.kill`), a limit of processes
//! that binds uid 0 too, and whether the kernel killed something for want of memory. Each of the
//! two versions is used, whatever is mounted; what is not there is done without or refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::mountinfo::{self, Mount};

const MAX_FILE: u64 = 1 << 20;

/// The executor's own groups, below which those of its runs are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// Version 2, with or without controllers.
    unified: Option<PathBuf>,
    /// Where `pids.max` works: version 1, or the same as `unified`.
    pids: Option<PathBuf>,
    /// Where the kernel counts what it killed for want of memory.
    memory: Option<PathBuf>,
}

impl Base {
    /// Finds the groups of this process; in version 2 makes the controllers usable, for which the
    /// process may move itself into a group below its own.
    pub fn prepare() -> Self {
        Self::with(enable_controllers)
    }

    /// The same without changing anything: what could be used.
    pub fn look() -> Self {
        Self::with(|base| text(&base.join("cgroup.controllers")))
    }

    fn with(enable: fn(&Path) -> String) -> Self {
        let read = |path: &str| {
            Bounded::new(mountinfo::MAX_FILE)
                .any_kind()
                .read(path.as_ref())
                .unwrap_or_default()
        };
        let own = String::from_utf8_lossy(&read("/proc/self/cgroup")).into_owned();
        let mounts: Vec<Mount> = mountinfo::parse(&read(mountinfo::FILE)).collect();
        let mut base = Self::find(&own, &mounts);
        if let Some(unified) = base.unified.clone() {
            let enabled = enable(&unified);
            for (name, place) in [("pids", &mut base.pids), ("memory", &mut base.memory)] {
                if place.is_none() && enabled.split_whitespace().any(|word| word == name) {
                    *place = Some(unified.clone());
                }
            }
        }
        base
    }

    fn find(own: &str, mounts: &[Mount]) -> Self {
        let place = |version_1: Option<&str>| {
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let fits = match version_1 {
                    None => controllers.is_empty(),
                    Some(name) => controllers.split(',').any(|word| word == name),
                };
                fits.then_some(path)
            })?;
            let mount = mounts.iter().find(|mount| match version_1 {
                None => mount.kind == b"cgroup2",
                Some(name) => mount.kind == b"cgroup" && mount.super_has(name),
            })?;
            // A container may see only a part of the tree.
            let below = Path::new(path).strip_prefix(&mount.root).ok()?;
            let place = mount.point.join(below);
            place.is_dir().then_some(place)
        };
        Self {
            unified: place(None),
            pids: place(Some("pids")),
            memory: place(Some("memory")),
        }
    }

    /// Whether the number of a run's processes can be limited.
    pub fn has_pids(&self) -> bool {
        self.pids.is_some()
    }

    /// Makes the groups of a run. `name` is unique among those that run.
    ///
    /// # Errors
    /// A limit was asked for and cannot be set. Without one nothing is an error.
    pub fn create(&self, name: &str, max_processes: Option<u64>) -> io::Result<Group> {
        let mut group = Group::default();
        if let Some(base) = &self.unified {
            let _ = group.add(base.join(name));
        }
        if let Some(base) = &self.memory {
            let dir = base.join(name);
            if group.add(dir.clone()).is_ok() {
                group.memory = Some(dir);
            }
        }
        if let Some(max) = max_processes {
            let base = self.pids.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            let dir = base.join(name);
            group.add(dir.clone())?;
            fs::write(dir.join("pids.max"), max.to_string())?;
            group.limited = Some(dir);
        }
        Ok(group)
    }
}

/// Turns on what is there and returns what is on.
fn enable_controllers(base: &Path) -> String {
    let control = base.join("cgroup.subtree_control");
    let wanted: Vec<&str> = ["pids", "memory"]
        .into_iter()
        .filter(|name| {
            let there = text(&base.join("cgroup.controllers"));
            there.split_whitespace().any(|word| word == *name)
        })
        .collect();
    let enable = || {
        wanted
            .iter()
            .filter(|name| fs::write(&control, format!("+{name}")).is_err())
            .count()
    };
    if !wanted.is_empty() && enable() > 0 {
        // A group with processes of its own has none below it that are limited: step aside.
        let aside = base.join("executor");
        let made = match fs::create_dir(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        };
        let moved = made.and_then(|()| fs::write(aside.join("cgroup.procs"), "0"));
        if moved.is_ok() {
            enable();
        }
    }
    text(&control)
}

/// The groups of one run.
#[derive(Debug, Default)]
pub struct Group {
    dirs: Vec<PathBuf>,
    memory: Option<PathBuf>,
    /// The one with a limit, without which nothing may run.
    limited: Option<PathBuf>,
}

impl Group {
    fn add(&mut self, dir: PathBuf) -> io::Result<()> {
        if !self.dirs.contains(&dir) {
            make_anew(&dir)?;
            self.dirs.push(dir);
        }
        Ok(())
    }

    /// Moves this process into the groups.
    ///
    /// # Errors
    /// The group with a limit cannot be entered. Without the others a run has what it needs.
    pub fn join(&self) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| {
            let entered = fs::write(dir.join("cgroup.procs"), "0");
            match self.limited.as_ref() == Some(dir) {
                true => entered,
                false => Ok(()),
            }
        })
    }

    /// Kills everything in it, as far as the system can do that at once (Linux 5.14).
    pub fn kill(&self) {
        for dir in &self.dirs {
            let _ = fs::write(dir.join("cgroup.kill"), "1");
        }
    }

    /// The processes in it; none where there are no groups.
    pub fn processes(&self) -> Vec<i32> {
        let Some(dir) = self.dirs.first() else {
            return Vec::new();
        };
        text(&dir.join("cgroup.procs"))
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Whether the kernel killed a process of the run for want of memory.
    pub fn had_oom(&self) -> bool {
        let Some(dir) = &self.memory else {
            return false;
        };
        // Version 2, then version 1 (since Linux 4.13).
        ["memory.events", "memory.oom_control"]
            .iter()
            .any(|file| oom_kills(&text(&dir.join(file))) > 0)
    }

    /// Removes the groups, once nothing is left in them.
    pub fn remove(&self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

/// An executor that was killed may have left one of that name, with its counts.
fn make_anew(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir(dir)?;
            fs::create_dir(dir)
        }
        done => done,
    }
}

fn text(path: &Path) -> String {
    Bounded::new(MAX_FILE)
        .any_kind()
        .text(path)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let root = std::env::temp_dir().join(format!("exec-cgroup-{}", std::process::id()));
        for dir in ["two/system/exec", "pids/exec", "memory"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let dir = root.to_str().unwrap();
        let table = format!(
            "1 1 0:1 / {dir}/two rw - cgroup2 none rw\n1 1 0:2 /part {dir}/pids rw - cgroup none rw,pids\n\
             1 1 0:2 / {dir}/memory rw - cgroup none rw,memory\n"
        );
        let mounts: Vec<_> = mountinfo::parse(table.as_bytes()).collect();
        let own = "8:pids:/part/exec\n4:cpu,memory:/elsewhere\n0::/system/exec\n";
        let base = Base::find(own, &mounts);
        let expected = Base {
            unified: Some(root.join("two/system/exec")),
            pids: Some(root.join("pids/exec")),
            // Its directory is not there.
            memory: None,
        };
        assert_eq!(base, expected);
        assert_eq!(Base::find("", &mounts), Base::default());
        assert_eq!(Base::find(own, &[]), Base::default());
        let none = Base::default();
        assert!(none.create("x", Some(3)).is_err());
        assert!(none.create("x", None).unwrap().processes().is_empty());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn kills_are_counted_in_both_forms() {
        assert_eq!(
            oom_kills("low 0\nhigh 0\noom 1\noom_kill 2\noom_group_kill 7\n"),
            2
        );
        assert_eq!(
            oom_kills("oom_kill_disable 5\nunder_oom 1\noom_kill 1\n"),
            1
        );
        assert_eq!(oom_kills("oom_kill_disable 1\nunder_oom 1\n"), 0);
        assert_eq!(oom_kills(""), 0);
    }
}
