//! Which script a request may run, and with which profile.
//!
//! The one place where this is decided, for the front-end and the executor alike
//! (executor.md §6.3, §6.4).

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{AgentConf, Profile, ScriptsConf};

/// The answer to "may this script run".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Yes, like this. Its [`fmt::Display`] is the `OK …` line of `resolve`.
    Allow(Permit<'a>),
    /// No. Its [`fmt::Display`] is the `DENY …` line of `resolve`.
    Deny(Deny<'a>),
}

/// A script that is allowlisted and in `script_dirs`: what is decided without profiles, in direct
/// mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<'a> {
    /// Path as written in `scripts.conf`.
    pub path: &'a str,
    /// The path that was judged: absolute, without symbolic links and `..`. This one is executed.
    pub real: PathBuf,
    /// Name of the profile.
    pub profile_name: &'a str,
}

/// What may be run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit<'a> {
    /// Path as written in `scripts.conf`.
    pub path: &'a str,
    /// The path that was judged: absolute, without symbolic links and `..`. This one is executed.
    pub real: PathBuf,
    /// Name of the profile.
    pub profile_name: &'a str,
    /// The profile.
    pub profile: &'a Profile,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny<'a> {
    /// No usable line in `scripts.conf`.
    NotAllowlisted,
    /// The path is outside `script_dirs`.
    NotInScriptDirs,
    /// Its profile has no section in `agent.conf`.
    UndefinedProfile,
    /// Its profile does not say which user it runs as; the profile's name.
    NoRunAs(&'a str),
}

impl Deny<'_> {
    /// The text for the caller (executor.md §4, where `executor: ` precedes it).
    pub fn message(self) -> String {
        match self {
            Self::NotAllowlisted => "script not permitted".to_owned(),
            Self::NotInScriptDirs => "script not in script_dirs".to_owned(),
            Self::UndefinedProfile => "undefined profile".to_owned(),
            Self::NoRunAs(profile) => no_run_as(profile),
        }
    }
}

/// What is wrong with a profile that names no user, and the line that mends it.
pub fn no_run_as(profile: &str) -> String {
    format!(
        "profile '{profile}' has no run_as: add the line 'run_as = USER' below [profile {profile}] in agent.conf ('run_as = root' if it must be root)"
    )
}

impl fmt::Display for Deny<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAllowlisted => "DENY not-allowlisted",
            Self::NotInScriptDirs => "DENY not-in-script-dirs",
            Self::UndefinedProfile => "DENY undefined-profile",
            Self::NoRunAs(_) => "DENY no-run-as",
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
    let located = match locate(conf, scripts, name, realpath) {
        Ok(located) => located,
        Err(deny) => return Decision::Deny(deny),
    };
    match conf.profiles.get(located.profile_name) {
        None => Decision::Deny(Deny::UndefinedProfile),
        // Ours: the reference runs it as uid 0.
        Some(profile) if profile.run_as.is_none() => {
            Decision::Deny(Deny::NoRunAs(located.profile_name))
        }
        Some(profile) => Decision::Allow(Permit {
            path: located.path,
            real: located.real,
            profile_name: located.profile_name,
            profile,
        }),
    }
}

/// The first half of [`resolve`], which is all of it where profiles have no effect.
///
/// The path is resolved once. What the caller executes must be [`Located::real`], never the path
/// as written: a link in it may point elsewhere by then.
///
/// # Errors
/// Not allowlisted, or outside `script_dirs`.
pub fn locate<'a>(
    conf: &AgentConf,
    scripts: &'a ScriptsConf,
    name: &str,
    realpath: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Result<Located<'a>, Deny<'a>> {
    let script = scripts.scripts.get(name).ok_or(Deny::NotAllowlisted)?;
    let written = Path::new(&script.path);
    let real = resolved(written, realpath);
    if !in_script_dirs(conf, real.as_deref(), realpath) {
        return Err(Deny::NotInScriptDirs);
    }
    Ok(Located {
        path: &script.path,
        // What cannot be resolved does not exist, and fails when it is executed.
        real: real.unwrap_or_else(|| written.to_owned()),
        profile_name: &script.profile,
    })
}

/// Whether the resolved `path` is below one of `script_dirs`, or there is no such restriction.
fn in_script_dirs(
    conf: &AgentConf,
    path: Option<&Path>,
    realpath: &dyn Fn(&Path) -> Option<PathBuf>,
) -> bool {
    let Some(dirs) = &conf.script_dirs else {
        return true;
    };
    let Some(path) = path else {
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
    scripts_of(scripts, |profile| !conf.profiles.contains_key(profile))
}

/// Scripts whose profile names no user, so that the executor refuses them: `(script, profile)` in
/// byte order of the script's name.
pub fn profiles_without_run_as<'a>(
    conf: &AgentConf,
    scripts: &'a ScriptsConf,
) -> Vec<(&'a str, &'a str)> {
    let nobody = |profile: &Profile| profile.run_as.is_none();
    scripts_of(scripts, |profile| {
        conf.profiles.get(profile).is_some_and(nobody)
    })
}

fn scripts_of(scripts: &ScriptsConf, which: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    scripts
        .scripts
        .iter()
        .filter(|(_, script)| which(&script.profile))
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
        let (scripts, _) = ScriptsConf::parse(&format!("s = {path}\n"), "scripts.conf").unwrap();
        locate(&conf, &scripts, "s", &realpath).is_ok()
    }

    #[test]
    fn what_is_executed_is_the_path_that_was_judged() {
        let (conf, _) = AgentConf::parse("", "agent.conf").unwrap();
        let list = "link = /link/x.sh\nup = /opt/s/../s/y\ngone = /gone/../x\n";
        let (scripts, _) = ScriptsConf::parse(list, "scripts.conf").unwrap();
        let real = |name| locate(&conf, &scripts, name, &realpath).unwrap().real;
        assert_eq!(real("link"), Path::new("/real/x.sh"));
        assert_eq!(real("gone"), Path::new("/gone/../x"), "does not exist");
        assert_eq!(
            locate(&conf, &scripts, "other", &realpath),
            Err(Deny::NotAllowlisted)
        );
    }

    #[test]
    fn only_a_profile_that_says_so_runs_as_anybody() {
        let text = "[profile bare]\nwritable = /x\n[profile root]\nrun_as = root\n";
        let (conf, _) = AgentConf::parse(text, "agent.conf").unwrap();
        let list = "a = /a profile=bare\nb = /b profile=root\nc = /c\n";
        let (scripts, _) = ScriptsConf::parse(list, "scripts.conf").unwrap();
        let decide = |name| resolve(&conf, &scripts, name, &realpath);
        let Decision::Deny(deny) = decide("a") else {
            panic!("{:?}", decide("a"))
        };
        assert_eq!(deny, Deny::NoRunAs("bare"));
        assert_eq!(deny.to_string(), "DENY no-run-as");
        assert!(
            deny.message()
                .contains("'run_as = USER' below [profile bare]")
        );
        assert!(matches!(decide("b"), Decision::Allow(_)));
        assert_eq!(decide("c"), Decision::Deny(Deny::UndefinedProfile));
        assert_eq!(profiles_without_run_as(&conf, &scripts), [("a", "bare")]);
        assert_eq!(undefined_profiles(&conf, &scripts), [("c", "default")]);
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
