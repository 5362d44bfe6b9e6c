//! `check`: validates both files and says what would happen to every script.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ctrl_exec_protocol::config::{Decision, Permit, decision};

use crate::conf::{Conf, Loaded};
use crate::identity::Identity;
use crate::probe::Kernel;
use crate::worker::realpath;

/// Writes the report. Returns whether everything is usable.
///
/// # Errors
/// Standard output cannot be written.
pub fn check(conf: &mut Conf, privileged: bool, out: &mut dyn Write) -> io::Result<bool> {
    let mut good = true;
    let [agent_path, scripts_path] = conf.paths().map(Path::to_owned);
    let (agent, scripts) = conf.current();
    good &= file(&agent_path, agent, out)?;
    good &= file(&scripts_path, scripts, out)?;
    if privileged {
        let kernel = Kernel::probe()?;
        let mut faults: Vec<String> = kernel.fatal().map(str::to_owned).into_iter().collect();
        faults.extend(agent.iter().flat_map(|agent| kernel.faults(&agent.conf)));
        for fault in &faults {
            writeln!(out, "kernel: FAULT: {fault}")?;
        }
        if faults.is_empty() {
            writeln!(out, "kernel: ok")?;
        }
        good &= faults.is_empty();
    } else {
        writeln!(out, "kernel: not examined (needs root)")?;
    }
    if let (Ok(agent), Ok(scripts)) = (agent, scripts) {
        for name in scripts.conf.scripts.keys() {
            let decision = decision::resolve(&agent.conf, &scripts.conf, name, &realpath);
            writeln!(out, "{name}: {decision}")?;
            let faults = match &decision {
                Decision::Allow(permit) => script_faults(permit),
                Decision::Deny(_) => {
                    good = false;
                    continue;
                }
            };
            for fault in &faults {
                writeln!(out, "{name}: FAULT: {fault}")?;
            }
            good &= faults.is_empty();
        }
    }
    Ok(good)
}

fn file<T>(path: &Path, loaded: &Loaded<T>, out: &mut dyn Write) -> io::Result<bool> {
    let exposed = std::fs::metadata(path).ok().and_then(exposed);
    let path = path.display();
    match loaded {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                writeln!(out, "{path}: warning: {warning}")?;
            }
            if let Some(fault) = exposed {
                writeln!(out, "{path}: warning: {fault}")?;
            }
            writeln!(out, "{path}: ok")?;
        }
        Err(error) => writeln!(out, "FAULT: {error}")?,
    }
    Ok(loaded.is_ok())
}

fn exposed(meta: std::fs::Metadata) -> Option<&'static str> {
    if meta.mode() & 0o022 != 0 {
        Some("group or others may write it, and so decide what runs as root")
    } else if meta.uid() != 0 {
        Some("its owner is not root, and decides what runs as root")
    } else {
        None
    }
}

/// What would make the run fail although it is permitted.
fn script_faults(permit: &Permit<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(Err(fault)) = permit.profile.run_as.as_ref().map(Identity::of) {
        faults.push(fault);
    }
    match std::fs::metadata(permit.path) {
        Err(error) => faults.push(format!("{}: {}", permit.path, crate::report::text(&error))),
        Ok(meta) if !meta.is_file() => faults.push(format!("{}: not a file", permit.path)),
        Ok(meta) if meta.mode() & 0o111 == 0 => {
            faults.push(format!("{}: not executable", permit.path));
        }
        Ok(_) => {}
    }
    faults
}
