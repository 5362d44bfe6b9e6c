//! `mcp`: hands over to the tool bridge, a program of its own since it alone has an async runtime.

use crate::front::cli::args::Args;
use crate::front::cli::ctx::Exit;
use crate::model::AppError;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Its file name.
const PROGRAM: &str = "ctrl-exec-mcp";

/// Becomes the bridge: the one beside this program, else the one in the path.
pub fn mcp(args: &Args) -> Result<Exit, AppError> {
    let beside = std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name(PROGRAM));
    let program = beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(PROGRAM));
    let error = Command::new(&program)
        .args(args.rest.iter().flatten())
        .exec();
    Err(AppError::system(format!(
        "cannot start {}: {error}",
        program.display()
    )))
}
