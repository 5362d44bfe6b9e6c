//! `ctrl-exec-api`: see `docs/reference/API.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ctrl_exec_host::diagnostics::init("ctrl-exec-api");
    ctrl_exec_dispatcher::front::api::main()
}
