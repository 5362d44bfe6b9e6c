//! Starting a process.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

use rustix::io::Errno;

use super::{ChildSpec, Output, SpawnError};

/// Starts the process in a group of its own. The specification's payload and captures are left
/// to the caller.
pub(super) fn start(spec: &ChildSpec) -> Result<process::Child, SpawnError> {
    command(spec).spawn().map_err(classify)
}

fn stdio(output: &Output) -> process::Stdio {
    match output {
        Output::Capture { .. } => process::Stdio::piped(),
        Output::Null => process::Stdio::null(),
    }
}

fn command(spec: &ChildSpec) -> Command {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args);
    command
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .envs(spec.mark.as_deref().and_then(|mark| mark.split_once('=')));
    command.stdin(if spec.stdin.is_empty() {
        process::Stdio::null()
    } else {
        process::Stdio::piped()
    });
    command.stdout(stdio(&spec.stdout));
    command.stderr(stdio(&spec.stderr));
    command.process_group(0);
    command
}

/// The standard library does not say which step failed; the error itself does.
fn classify(error: io::Error) -> SpawnError {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE) => SpawnError::Pipe("stdin", error),
        Some(Errno::AGAIN | Errno::NOMEM) => SpawnError::Fork(error),
        _ => SpawnError::Exec(error),
    }
}
