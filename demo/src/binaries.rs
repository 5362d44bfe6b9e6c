//! Where the programs under show are, building them when needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use std::{env, io};

/// The built programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `ctrl-exec-agent`.
    pub agent: PathBuf,
    /// `ctrl-exec-dispatcher`.
    pub dispatcher: PathBuf,
    /// `ctrl-exec-exec`.
    pub executor: PathBuf,
}

impl Binaries {
    /// Builds the programs with the profile this program was built with, into the same target
    /// directory, and finds them there.
    ///
    /// `CTRL_EXEC_AGENT`, `CTRL_EXEC_DISPATCHER` and `CTRL_EXEC_EXEC` name programs to use instead,
    /// for example those of another architecture or of another implementation.
    ///
    /// # Errors
    /// When cargo cannot be run or the build fails.
    pub fn build() -> io::Result<Self> {
        let profile_dir = profile_dir()?;
        let named = |name: &str| env::var_os(name).map(PathBuf::from);
        let (agent, dispatcher, executor) = (
            named("CTRL_EXEC_AGENT"),
            named("CTRL_EXEC_DISPATCHER"),
            named("CTRL_EXEC_EXEC"),
        );
        let all_named = agent.is_some() && dispatcher.is_some() && executor.is_some();
        if !all_named && !are_current(&profile_dir) {
            cargo_build(&profile_dir)?;
        }
        let built = |name: &str| profile_dir.join(name);
        Ok(Self {
            agent: agent.unwrap_or_else(|| built("ctrl-exec-agent")),
            dispatcher: dispatcher.unwrap_or_else(|| built("ctrl-exec-dispatcher")),
            executor: executor.unwrap_or_else(|| built("ctrl-exec-exec")),
        })
    }
}

const PROGRAMS: [&str; 3] = ["ctrl-exec-agent", "ctrl-exec-dispatcher", "ctrl-exec-exec"];

/// Whether the programs are there and newer than all that they are made of. `cargo test` of the
/// workspace has built them; building again under it, with other features, would change libraries
/// that its documentation tests are about to link.
fn are_current(profile_dir: &Path) -> bool {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let made = PROGRAMS
        .iter()
        .map(|name| profile_dir.join(name).metadata()?.modified())
        .collect::<io::Result<Vec<_>>>();
    let Some(oldest) = made.ok().and_then(|times| times.into_iter().min()) else {
        return false;
    };
    let parts = ["agent-min", "dispatcher", "executor-c-compat", "crates"];
    ["Cargo.toml", "Cargo.lock"]
        .iter()
        .all(|file| is_older(&root.join(file), oldest))
        && parts.iter().all(|part| is_older(&root.join(part), oldest))
}

/// Whether a file, or everything in the source folders below a directory, is older than `than`.
/// What cannot be read is not.
fn is_older(path: &Path, than: SystemTime) -> bool {
    let Ok(meta) = path.symlink_metadata() else {
        return false;
    };
    if !meta.is_dir() {
        return meta.modified().is_ok_and(|time| time < than);
    }
    // Tests and benchmarks are no part of the programs.
    if path.ends_with("tests") || path.ends_with("benches") {
        return true;
    }
    std::fs::read_dir(path).is_ok_and(|entries| {
        entries
            .into_iter()
            .all(|entry| entry.is_ok_and(|entry| is_older(&entry.path(), than)))
    })
}

/// `target/<profile>` of this very program; test programs stand one level deeper, in `deps`.
fn profile_dir() -> io::Result<PathBuf> {
    let exe = env::current_exe()?;
    let dir = exe.parent().unwrap_or(Path::new("."));
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    Ok(dir.to_owned())
}

fn cargo_build(profile_dir: &Path) -> io::Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .args([
            "-p",
            "ctrl-exec-agent",
            "-p",
            "ctrl-exec-dispatcher",
            "-p",
            "ctrl-exec-exec",
        ]);
    if let Some(target) = profile_dir.parent() {
        command.arg("--target-dir").arg(target);
    }
    if profile_dir.ends_with("release") {
        command.arg("--release");
    }
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("cargo build failed: {status}"))),
    }
}
