//! The command line (agent.md §12).

mod args;
mod certs;
mod checks;

use crate::VERSION;
use crate::config::paths::Paths;
use crate::pairing;
use crate::runs::supervisor;
use crate::serve;
use crate::verdict;
use args::{Args, usage};
use ctrl_exec_host::{diagnostics, stderr};
use std::ffi::OsString;
use std::io::{self, Write};

/// Exit code of a command line that is not understood, and of fatal faults.
const EXIT_USAGE: u8 = 3;

/// Does what the arguments (without the program's name) say. The result is the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    diagnostics::init("ctrl-exec-agent");
    let all: Vec<OsString> = arguments.into_iter().collect();
    match all.first().and_then(|first| first.to_str()) {
        Some(supervisor::START) => return supervisor::start(),
        Some(supervisor::SUPERVISE) => return supervisor::supervise(),
        _ => {}
    }
    let args = match Args::parse(&all) {
        Ok(args) => args,
        Err(fault) => {
            complain(&format!("{fault}\n\n{}", usage()));
            return EXIT_USAGE;
        }
    };
    if args.version {
        print(&format!("ctrl-exec-agent {VERSION}\n"));
        return 0;
    }
    let Some(mode) = args.mode.as_deref().filter(|_| !args.help) else {
        print(&usage());
        return 0;
    };
    if let Some(option) = args.misplaced(mode) {
        complain(&format!("{mode} takes no {option}"));
        return EXIT_USAGE;
    }
    let paths = Paths::new(args.root(), args.config.clone(), args.allowlist.clone());
    match mode {
        "serve" => serve::serve(paths, args.wait_for_port),
        "request-pairing" => pairing::run(&paths, &args.pairing, &without_mode(&all, mode)),
        pairing::WAIT => pairing::wait(&paths, &args.pairing),
        "pairing-status" => checks::pairing_status(&paths),
        "paired" => checks::paired(&paths),
        "self-check" => checks::self_check(&paths),
        "reload" => verdict::reload(&paths),
        "self-ping" => checks::self_ping(&paths, args.pairing.port),
        "cert-staged" => certs::cert_staged(&paths),
        "promote-cert" => certs::promote_cert(&paths),
        other => {
            complain(&format!("unknown mode '{other}'\n\n{}", usage()));
            EXIT_USAGE
        }
    }
}

/// The arguments but for the mode itself, for the background process.
fn without_mode(all: &[OsString], mode: &str) -> Vec<OsString> {
    let mut rest = all.to_vec();
    if let Some(at) = rest.iter().position(|word| word == mode) {
        rest.remove(at);
    }
    rest.retain(|word| word != "--background");
    rest
}

/// Says on standard error what is wrong with a command.
fn complain(text: &str) {
    stderr::write(format!("ctrl-exec-agent: {}\n", text.trim_end()).as_bytes());
}

fn print(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
