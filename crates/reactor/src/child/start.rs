//! Starting a process.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use rustix::io::Errno;

use super::{ChildSpec, Output, SpawnError};

/// Starts the process in a group of its own. The specification's payload and captures are left
/// to the caller.
pub(super) fn start(spec: &mut ChildSpec) -> Result<process::Child, SpawnError> {
    let stdout = Target::take(&mut spec.stdout);
    let stderr = Target::take(&mut spec.stderr);
    let result = command(&spec.program, None, spec, &stdout, &stderr)?.spawn();
    let result = match result {
        // No `#!` line: what execvp does, and a shell would.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOEXEC) => {
            let shell = Path::new("/bin/sh");
            command(
                shell,
                Some(spec.program.as_os_str()),
                spec,
                &stdout,
                &stderr,
            )?
            .spawn()
        }
        result => result,
    };
    result.map_err(classify)
}

/// An [`Output`] that can be given to two commands in turn.
enum Target {
    File(std::fs::File),
    Inherit,
    Null,
    Pipe,
}

impl Target {
    fn take(output: &mut Output) -> Target {
        match output {
            Output::Capture { .. } => Target::Pipe,
            Output::Inherit => Target::Inherit,
            Output::Null => Target::Null,
            Output::File(_) => match std::mem::replace(output, Output::Null) {
                Output::File(file) => Target::File(file),
                _ => Target::Null,
            },
        }
    }

    fn stdio(&self, name: &'static str) -> Result<process::Stdio, SpawnError> {
        Ok(match self {
            Target::File(file) => file
                .try_clone()
                .map_err(|error| SpawnError::Pipe(name, error))?
                .into(),
            Target::Inherit => process::Stdio::inherit(),
            Target::Null => process::Stdio::null(),
            Target::Pipe => process::Stdio::piped(),
        })
    }
}

fn command(
    program: &Path,
    first: Option<&OsStr>,
    spec: &ChildSpec,
    stdout: &Target,
    stderr: &Target,
) -> Result<Command, SpawnError> {
    let mut command = Command::new(program);
    command.args(first);
    command.args(&spec.args);
    command
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)));
    command.stdin(if spec.stdin.is_empty() {
        process::Stdio::null()
    } else {
        process::Stdio::piped()
    });
    command.stdout(stdout.stdio("stdout")?);
    command.stderr(stderr.stdio("stderr")?);
    command.process_group(0);
    Ok(command)
}

/// The standard library does not say which step failed; the error itself does.
fn classify(error: io::Error) -> SpawnError {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE) => SpawnError::Pipe("stdin", error),
        Some(Errno::AGAIN | Errno::NOMEM) => SpawnError::Fork(error),
        _ => SpawnError::Exec(error),
    }
}
