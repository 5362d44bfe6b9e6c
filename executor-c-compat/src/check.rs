//! `check`: validates both files and says what would happen to every script.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ctrl_exec_protocol::config::{AgentConf, Decision, Permit, decision};
use rustix::fs::Access;

use crate::cgroup::Base;
use crate::conf::{Conf, Loaded};
use crate::confine::{become_user, program_fault};
use crate::guard::Guarded;
use crate::identity::Identity;
use crate::probe::{Kernel, in_a_child, loose_ends};
use crate::{report, sys, worker};

/// How to check.
pub struct Options {
    /// Prefix of the protected directories.
    pub root: PathBuf,
    /// The user whose requests the executor obeys, if that user exists.
    pub peer_user: String,
    /// Accept files that others than root may change.
    pub unsafe_paths: bool,
    /// Whether this process has root's powers.
    pub privileged: bool,
}

/// Writes the report. Returns whether everything is usable.
///
/// # Errors
/// Standard output cannot be written.
pub fn check(options: &Options, conf: &mut Conf, out: &mut dyn Write) -> io::Result<bool> {
    let mut good = true;
    let [agent_path, scripts_path] = conf.paths().map(Path::to_owned);
    let guarded = Guarded::new(&options.root, [&agent_path, &scripts_path], None);
    let exposed = worker::exposed_conf(&conf.paths());
    let (agent, scripts) = conf.current();
    good &= file(&agent_path, agent, out)?;
    good &= file(&scripts_path, scripts, out)?;
    for fault in exposed {
        // Without root it is somebody's own installation that is looked at.
        let word = if options.unsafe_paths || !options.privileged {
            "warning"
        } else {
            good = false;
            "FAULT"
        };
        writeln!(out, "configuration: {word}: {fault}")?;
    }
    if options.privileged {
        good &= kernel(agent, out)?;
    } else {
        writeln!(out, "kernel: not examined (needs root)")?;
    }
    let Ok(agent) = agent else {
        return Ok(false);
    };
    for (name, profile) in &agent.conf.profiles {
        for warning in loose_ends(name, profile) {
            writeln!(out, "warning: {warning}")?;
        }
        for path in &profile.writable {
            if let Some(dir) = guarded.opened_by(Path::new(path)) {
                good = false;
                writeln!(
                    out,
                    "FAULT: profile '{name}': writable '{path}' reaches the control directory {}: name the directories in it that the script needs",
                    dir.display()
                )?;
            }
        }
    }
    if let Ok(scripts) = scripts {
        for name in scripts.conf.scripts.keys() {
            let decision = decision::resolve(&agent.conf, &scripts.conf, name, &worker::realpath);
            writeln!(out, "{name}: {decision}")?;
            let faults = match &decision {
                Decision::Allow(permit) => script_faults(options, permit, &agent.conf),
                Decision::Deny(deny) => vec![deny.message()],
            };
            for fault in &faults {
                writeln!(out, "{name}: FAULT: {fault}")?;
            }
            good &= faults.is_empty();
        }
    }
    Ok(good && scripts.is_ok())
}

fn kernel(agent: &Loaded<AgentConf>, out: &mut dyn Write) -> io::Result<bool> {
    let kernel = Kernel::probe(&Base::look())?;
    let mut faults: Vec<String> = kernel.fatal().map(str::to_owned).into_iter().collect();
    if let Ok(agent) = agent {
        faults.extend(kernel.faults(&agent.conf));
        for warning in kernel.warnings(&agent.conf) {
            writeln!(out, "kernel: warning: {warning}")?;
        }
    }
    for fault in &faults {
        writeln!(out, "kernel: FAULT: {fault}")?;
    }
    if faults.is_empty() {
        writeln!(out, "kernel: ok")?;
    }
    Ok(faults.is_empty())
}

fn file<T>(path: &Path, loaded: &Loaded<T>, out: &mut dyn Write) -> io::Result<bool> {
    let path = path.display();
    match loaded {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                writeln!(out, "{path}: warning: {warning}")?;
            }
            writeln!(out, "{path}: ok")?;
        }
        Err(error) => writeln!(out, "FAULT: {error}")?,
    }
    Ok(loaded.is_ok())
}

/// What would make the run fail although it is permitted.
fn script_faults(options: &Options, permit: &Permit<'_>, conf: &AgentConf) -> Vec<String> {
    let identity = match worker::identity(permit) {
        Ok(identity) => identity,
        Err(fault) => return vec![fault],
    };
    let mut faults = Vec::new();
    if let Ok(Some(peer)) = sys::user_by_name(&options.peer_user) {
        faults.extend(worker::not_the_peer(permit, &identity, peer.uid).err());
    }
    if options.privileged && !options.unsafe_paths {
        faults.extend(worker::exposed_script(permit, &identity, conf));
    }
    let path = permit.path;
    match std::fs::metadata(path) {
        Err(error) => faults.push(format!("{path}: {}", report::text(&error))),
        Ok(meta) if !meta.is_file() => faults.push(format!("{path}: not a file")),
        Ok(meta) if !ctrl_exec_host::exec_bit::is_set(&meta) => {
            faults.push(format!("{path}: not executable"));
        }
        Ok(_) => {
            faults.extend(program_fault(&permit.real).map(|fault| format!("{path}: {fault}")));
            if options.privileged {
                faults.extend(user_fault(permit, &identity));
            }
        }
    }
    faults
}

const CANNOT_EXECUTE: i32 = 1;
const CANNOT_READ: i32 = 2;
const CANNOT_BECOME: i32 = 3;

/// What the profile's user cannot do, tried as that user with the profile's capabilities.
fn user_fault(permit: &Permit<'_>, identity: &Identity) -> Option<String> {
    let is_script = has_interpreter_line(&permit.real) == Some(true);
    let attempt = || {
        if become_user(permit.profile, identity).is_err() {
            CANNOT_BECOME
        } else if rustix::fs::access(&permit.real, Access::EXEC_OK).is_err() {
            CANNOT_EXECUTE
        } else if is_script && has_interpreter_line(&permit.real).is_none() {
            CANNOT_READ
        } else {
            0
        }
    };
    let user = permit.profile.run_as.as_ref().map_or("", |user| &user.text);
    let path = permit.path;
    match in_a_child(attempt) {
        Ok(Some(CANNOT_EXECUTE)) => Some(format!(
            "{path}: user '{user}' may not execute it: check its owner, group and mode, and those of the directories above"
        )),
        Ok(Some(CANNOT_READ)) => Some(format!(
            "{path}: user '{user}' may not read it, which its interpreter has to"
        )),
        Ok(Some(CANNOT_BECOME)) => Some(format!(
            "{path}: cannot take on user '{user}' with the profile's capabilities"
        )),
        _ => None,
    }
}

/// Whether a file begins with `#!`; none when it cannot be read.
fn has_interpreter_line(path: &Path) -> Option<bool> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(2).read_to_end(&mut head).ok()?;
    Some(head == b"#!")
}
