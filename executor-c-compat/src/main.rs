//! `ctrl-exec-exec`: the half of the agent that is root.
//!
//! It has no network and no secrets. For each request on its unix socket it looks the script up in
//! its own configuration, confines a child process as the script's profile says and runs it. See
//! docs/reference/EXECUTOR.md.

mod cgroup;
mod check;
mod cli;
mod conf;
mod confine;
mod descendants;
mod guard;
mod host_init;
mod identity;
mod input;
mod mounts;
mod probe;
mod relay;
mod report;
mod run;
mod serve;
mod supervisor;
mod sys;
mod trusted_path;
mod unix_sockets;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use ctrl_exec_host::diagnostics;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::config::{ConfigError, decision};

use crate::cli::{Command, USAGE};
use crate::conf::Conf;

/// Present in the environment: `serve` without root, for tests (executor.md §5.6).
const ALLOW_UNPRIVILEGED: &str = "CTRL_EXEC_EXEC_ALLOW_UNPRIV";

fn main() -> ExitCode {
    diagnostics::init(report::IDENT);
    let privileged = rustix::process::geteuid().is_root();
    match cli::parse(std::env::args_os().skip(1).collect()) {
        Err(fault) => {
            log::error!("{fault}");
            let _ = io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(1)
        }
        Ok(Command::Help) => print(USAGE),
        Ok(Command::Version) => print(concat!("ctrl-exec-exec ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Resolve {
            agent,
            scripts,
            name,
        }) => match resolve(&mut Conf::new(&agent, &scripts), &name) {
            Ok(line) => print(&line),
            Err(error) => fail(2, error),
        },
        Ok(Command::Check {
            root,
            agent,
            scripts,
            peer_user,
            unsafe_paths,
        }) => {
            let options = check::Options {
                root,
                peer_user,
                unsafe_paths,
                privileged,
            };
            let mut conf = Conf::new(&agent, &scripts);
            match check::check(&options, &mut conf, &mut io::stdout()) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::from(1),
                Err(error) => fail(1, error),
            }
        }
        Ok(Command::Serve {
            root,
            socket,
            agent,
            scripts,
            peer_user,
            frame_timeout,
            unsafe_paths,
        }) => {
            if !privileged && std::env::var_os(ALLOW_UNPRIVILEGED).is_none() {
                return fail(1, "serve must run as root");
            }
            report::open(&Root::at(&root));
            let options = serve::Options {
                root,
                socket,
                peer_user,
                frame_timeout,
                unsafe_paths,
                privileged,
            };
            match serve::serve(&options, Conf::new(&agent, &scripts)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(fault) => fail(1, fault),
            }
        }
    }
}

/// The line of executor.md §7.
fn resolve(conf: &mut Conf, name: &str) -> Result<String, ConfigError> {
    let (agent, scripts) = conf.current();
    let agent = agent.as_ref().map_err(Clone::clone)?;
    let scripts = match scripts {
        Ok(scripts) => &scripts.conf,
        Err(error) => {
            // No usable list permits nothing; only agent.conf can be a configuration error.
            log::error!("{error}");
            &Default::default()
        }
    };
    let decision = decision::resolve(&agent.conf, scripts, name, &worker::realpath);
    Ok(format!("{decision}\n"))
}

fn fail(exit: u8, fault: impl std::fmt::Display) -> ExitCode {
    log::error!("{fault}");
    ExitCode::from(exit)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}
