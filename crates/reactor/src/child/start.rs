//! Starting a process.

use std::ffi::OsStr;

use ctrl_exec_spawn::{Fault, Started, Stdio, Strings};
use rustix::io::Errno;

use super::{ChildSpec, Output, SpawnError};

/// Starts the program of `spec` in a process group of its own.
pub(super) fn start(spec: &ChildSpec) -> Result<Started, SpawnError> {
    let mut strings = Strings::new(spec.program.as_os_str());
    spec.args.iter().for_each(|word| strings.arg(word));
    strings.clear_env();
    for (name, value) in spec.env.iter() {
        strings.env(name, value);
    }
    if let Some((name, value)) = spec.mark.as_deref().and_then(|mark| mark.split_once('=')) {
        strings.env(OsStr::new(name), OsStr::new(value));
    }
    let stdin = if spec.stdin.is_empty() {
        Stdio::Null
    } else {
        Stdio::Pipe
    };
    let streams = [stdin, stdio(&spec.stdout), stdio(&spec.stderr)];
    ctrl_exec_spawn::start(&strings, streams, true).map_err(|fault| match fault {
        Fault::Pipe(error) => SpawnError::Pipe("stdin", error),
        Fault::Fork(error) => SpawnError::Fork(error),
        Fault::Exec(error) => match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE) => SpawnError::Pipe("stdin", error),
            _ => SpawnError::Exec(error),
        },
    })
}

fn stdio(output: &Output) -> Stdio<'static> {
    match output {
        Output::Capture { .. } | Output::Live => Stdio::Pipe,
        Output::Null => Stdio::Null,
    }
}
