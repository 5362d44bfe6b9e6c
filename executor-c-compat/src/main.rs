//! `ctrl-exec-exec`: the half of the agent that is root.
//!
//! It has no network and no secrets. For each request on its unix socket it looks the script up in
//! its own configuration, confines a child process as the script's profile says and runs it. See
//! docs/reference/EXECUTOR.md.

mod check;
mod cli;
mod conf;
mod confine;
mod identity;
mod mounts;
mod probe;
mod report;
mod run;
mod serve;
mod sys;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use ctrl_exec_protocol::config::{ConfigError, decision};
use rustix::event::Timespec;

use crate::cli::{Command, USAGE};
use crate::conf::Conf;

/// Present in the environment: `serve` without root, for tests (executor.md §5.6).
const ALLOW_UNPRIVILEGED: &str = "CTRL_EXEC_EXEC_ALLOW_UNPRIV";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let privileged = rustix::process::geteuid().is_root();
    match cli::parse(&args) {
        Err(fault) => {
            report::line(fault);
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
            Err(error) => {
                report::line(error);
                ExitCode::from(2)
            }
        },
        Ok(Command::Check { agent, scripts }) => {
            let mut conf = Conf::new(&agent, &scripts);
            match check::check(&mut conf, privileged, &mut io::stdout()) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::from(1),
                Err(error) => {
                    report::line(error);
                    ExitCode::from(1)
                }
            }
        }
        Ok(Command::Serve {
            root,
            socket,
            agent,
            scripts,
            peer_user,
        }) => {
            if !privileged && std::env::var_os(ALLOW_UNPRIVILEGED).is_none() {
                report::line("serve must run as root");
                return ExitCode::from(1);
            }
            let conf = Conf::new(&agent, &scripts);
            match serve::serve(&root, &socket, conf, &peer_user, privileged) {
                Ok(()) => ExitCode::SUCCESS,
                Err(fault) => {
                    report::line(fault);
                    ExitCode::from(1)
                }
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
            report::line(error);
            &Default::default()
        }
    };
    let decision = decision::resolve(&agent.conf, scripts, name, &worker::realpath);
    Ok(format!("{decision}\n"))
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

/// For `poll`; a time beyond what it can express only means an early look around.
fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec {
        tv_sec: 3600,
        tv_nsec: 0,
    })
}
