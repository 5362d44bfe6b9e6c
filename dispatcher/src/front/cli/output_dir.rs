//! `--output-dir`: the output of each host in files of its own.

use super::out;
use crate::model::{AppError, HostResult, RunEnd};
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::file_name;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory for outputs.
pub struct OutputDir {
    path: PathBuf,
    fault: RefCell<Option<AppError>>,
}

impl OutputDir {
    /// Makes the directory if it is not there, and tries whether files can be made in it, before
    /// anything runs.
    pub fn open(path: &str) -> Result<Self, AppError> {
        let path = PathBuf::from(path);
        let fail = |error: io::Error| fault(&path, &error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(fail)?;
        let probe = path.join(format!(".probe.{}", std::process::id()));
        write(&probe, "probe\n").map_err(fail)?;
        fs::remove_file(&probe).map_err(fail)?;
        Ok(Self {
            path,
            fault: RefCell::default(),
        })
    }

    /// Writes the output of a host. Files of an earlier run do not stay: a host of which no output
    /// is known has none.
    pub fn keep(&self, result: &HostResult<RunEnd>) {
        let name = file_name::sanitise(&result.host);
        let reply = &result.reply;
        let outputs = [
            ("stdout", &reply.stdout, reply.stdout_parts()),
            ("stderr", &reply.stderr, reply.stderr_parts()),
        ];
        for (stream, text, parts) in outputs {
            let path = self.path.join(format!("{name}.{stream}"));
            let done = match text {
                Some(_) => write(&path, &parts.marked()),
                None => fs::remove_file(&path).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                }),
            };
            if let Err(error) = done {
                let error = fault(&path, &error);
                out::error(format_args!("Error: {}", error.message));
                self.fault.borrow_mut().get_or_insert(error);
            }
        }
    }

    /// The first fault, if some output could not be written.
    pub fn fault(self) -> Option<AppError> {
        let first = self.fault.into_inner()?;
        let message = format!("outputs are missing: {}", first.message);
        Some(AppError { message, ..first })
    }
}

fn fault(path: &Path, error: &io::Error) -> AppError {
    let shown = path.display().to_string();
    AppError::system(format!("cannot write {}: {error}", shown.escape_debug()))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    durable::write(path, text.as_bytes(), &Perm::mode(0o600))
}
