//! The `ctrl-exec-agent` program; see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    ctrl_exec_agent::cli::run(std::env::args_os().skip(1)).into()
}
