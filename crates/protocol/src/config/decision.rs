//! Which script a request may run, and with which profile.
//!
//! The one place where this is decided, for the front-end and the executor alike
//! (executor.md §6.3, §6.4).

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{AgentConf, Profile, ScriptsConf};

/// The answer to "may this script run".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Yes, like this. Its [`fmt::Display`] is the `OK …` line of `resolve`.
    Allow(Permit<'a>),
    /// No. Its [`fmt::Display`] is the `DENY …` line of `resolve`.
    Deny(Deny),
}

/// What may be run, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit<'a> {
    /// Path as written in `scripts.conf`.
    pub path: &'a str,
    /// Name of the profile.
    pub profile_name: &'a str,
    /// The profile.
    pub profile: &'a Profile,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// No usable line in `scripts.conf`.
    NotAllowlisted,
    /// The path is outside `script_dirs`.
    NotInScriptDirs,
    /// Its profile has no section in `agent.conf`.
    UndefinedProfile,
}

impl Deny {
    /// The text for the caller (executor.md §4, where `executor: ` precedes it).
    pub fn message(self) -> &'static str {
        match self {
            Self::NotAllowlisted => "script not permitted",
            Self::NotInScriptDirs => "script not in script_dirs",
            Self::UndefinedProfile => "undefined profile",
        }
    }
}

impl fmt::Display for Deny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAllowlisted => "DENY not-allowlisted",
            Self::NotInScriptDirs => "DENY not-in-script-dirs",
            Self::UndefinedProfile => "DENY undefined-profile",
        })
    }
}

impl fmt::Display for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run_as = self
            .profile
            .run_as
            .as_ref()
            .map_or("", |user| user.text.as_str());
        let nnp = u8::from(self.profile.no_new_privileges);
        let (path, name) = (self.path, self.profile_name);
        write!(
            f,
            "OK path={path}|profile={name}|run_as={run_as}|nnp={nnp}|caps="
        )?;
        for (index, cap) in self.profile.caps.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { "," }, cap.name)?;
        }
        write!(f, "|writable={}", self.profile.writable.join(":"))
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(permit) => permit.fmt(f),
            Self::Deny(deny) => deny.fmt(f),
        }
    }
}

/// Decides. `realpath` resolves a path that exists to its absolute form without symbolic links
/// (`|path| std::fs::canonicalize(path).ok()`).
pub fn resolve<'a>(
    conf: &'a AgentConf,
    scripts: &'a ScriptsConf,
    name: &str,
    realpath: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Decision<'a> {
    let Some(script) = scripts.scripts.get(name) else {
        return Decision::Deny(Deny::NotAllowlisted);
    };
    if !in_script_dirs(conf, &script.path, realpath) {
        return Decision::Deny(Deny::NotInScriptDirs);
    }
    match conf.profiles.get(&script.profile) {
        Some(profile) => Decision::Allow(Permit {
            path: &script.path,
            profile_name: &script.profile,
            profile,
        }),
        None => Decision::Deny(Deny::UndefinedProfile),
    }
}

/// Whether `path` is below one of `script_dirs`, or there is no such restriction.
pub fn in_script_dirs(
    conf: &AgentConf,
    path: &str,
    realpath: &dyn Fn(&Path) -> Option<PathBuf>,
) -> bool {
    let Some(dirs) = &conf.script_dirs else {
        return true;
    };
    let Some(path) = resolved(Path::new(path), realpath) else {
        return false;
    };
    dirs.iter().any(|dir| {
        // `/` permits nothing, as in the reference's executor: the safe one of its two readings.
        let dir = resolved(Path::new(dir), realpath).filter(|dir| dir.parent().is_some());
        dir.is_some_and(|dir| path.starts_with(dir))
    })
}

/// Scripts whose profile has no section: `(script, profile)` in byte order of the script's name.
/// The front-end refuses to start over them.
pub fn undefined_profiles<'a>(
    conf: &AgentConf,
    scripts: &'a ScriptsConf,
) -> Vec<(&'a str, &'a str)> {
    let undefined = |profile: &String| !conf.profiles.contains_key(profile);
    scripts
        .scripts
        .iter()
        .filter(|(_, script)| undefined(&script.profile))
        .map(|(name, script)| (name.as_str(), script.profile.as_str()))
        .collect()
}

/// The path without symbolic links and `..`, also when it does not exist: the part that exists is
/// resolved, the rest is appended. None when it is relative, or the missing part climbs with `..`.
fn resolved(path: &Path, realpath: &dyn Fn(&Path) -> Option<PathBuf>) -> Option<PathBuf> {
    if !path.is_absolute() {
        return None;
    }
    for existing in path.ancestors() {
        if let Some(mut found) = realpath(existing) {
            let rest = path.strip_prefix(existing).ok()?;
            if rest
                .components()
                .any(|part| !matches!(part, Component::Normal(_)))
            {
                return None;
            }
            found.extend(rest.components());
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of one directory `/real`, a link `/link` to it and a directory `/opt/s`
    /// with a link `out` to `/real`.
    fn realpath(path: &Path) -> Option<PathBuf> {
        let target = match path.to_str()? {
            "/" => "/",
            "/real" | "/link" | "/link/" | "/opt/s/out" => "/real",
            "/opt" => "/opt",
            "/opt/s" | "/opt/s/" => "/opt/s",
            _ => return None,
        };
        Some(PathBuf::from(target))
    }

    fn inside(dirs: &str, path: &str) -> bool {
        let text = format!("script_dirs = {dirs}\n");
        let (conf, _) = AgentConf::parse(&text, "agent.conf").unwrap();
        in_script_dirs(&conf, path, &realpath)
    }

    #[test]
    fn missing_files_are_judged_by_their_resolved_parent() {
        assert!(inside("/opt/s", "/opt/s/x.sh"));
        assert!(inside("/opt/s/", "/opt/s/sub/x.sh"));
        assert!(inside("/opt/s", "/opt/s"));
        assert!(!inside("/opt/s", "/opt/sx/x.sh"));
        assert!(inside("/link", "/real/x.sh"));
        assert!(inside("/real", "/link/x.sh"));
        assert!(
            !inside("/opt/s", "/opt/s/out/x.sh"),
            "leaves through a symbolic link"
        );
        assert!(
            !inside("/opt/s", "/opt/s/gone/../../../etc/x"),
            "climbs out of what is missing"
        );
        assert!(inside("/gone:/opt/s", "/opt/s/x.sh"));
        assert!(inside("/gone/dir", "/gone/dir/x.sh"));
    }

    #[test]
    fn the_root_directory_and_relative_directories_permit_nothing() {
        assert!(!inside("/", "/opt/s/x.sh"));
        assert!(!inside("//", "/opt/s/x.sh"));
        assert!(!inside("opt/s", "/opt/s/x.sh"));
    }
}
