//! `ced`, the short name of `ctrl-exec-dispatcher`: see `docs/reference/DISPATCHER.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ctrl_exec_dispatcher::front::cli::main()
}
