//! `ctrl-exec-dispatcher`: see `docs/reference/DISPATCHER.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ctrl_exec_host::diagnostics::init("ctrl-exec-dispatcher");
    ctrl_exec_dispatcher::front::cli::main()
}
