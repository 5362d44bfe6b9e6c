//! The command line: a thin layer that turns verbs into calls of the library and results into
//! text or JSON.

mod dispatch;
mod flags;
mod help;
mod out;
mod parse;
mod render;
mod rotating;
mod session;
mod table;
mod verbs;

use crate::config::Config;
use crate::store::files::issued::Issued;
use crate::store::files::registry::Registry;
use crate::store::files::runs::RunStore;
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Exit status of every fatal error: bad usage, unreadable configuration, unknown agents
/// (dispatcher.md §4; the reference exits with whatever errno was).
pub const FATAL: u8 = 3;
/// Ident of our log lines.
const IDENT: &str = "ctrl-exec-dispatcher";

/// Exit status of a verb that did its work.
pub type Exit = u8;

/// An error that ends the command with status [`FATAL`] and one message.
#[derive(Debug)]
pub struct Fatal(pub String);

impl<E: std::error::Error> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What every verb starts from.
pub struct Ctx {
    /// Prefix of default paths.
    pub root: Root,
    /// `--config`.
    pub config_path: Option<PathBuf>,
    log: Syslog,
}

impl Ctx {
    fn new(root: Root, config_path: Option<PathBuf>) -> Self {
        // Without a log socket, lines would go to standard error, among what the operator reads.
        let log = Syslog::open(IDENT, &root).socket_only();
        Self {
            root,
            config_path,
            log,
        }
    }

    /// Reads the configuration.
    pub fn config(&self) -> Result<Config, Fatal> {
        Ok(Config::load(&self.root, self.config_path.as_deref())?)
    }

    /// The agent registry.
    pub fn registry(&self) -> Registry {
        Registry::new(self.root.path(crate::store::files::registry::DIR))
    }

    /// The run store.
    pub fn runs(&self) -> RunStore {
        RunStore::new(self.root.path(crate::store::files::runs::DIR))
    }

    /// The certificates that agents were given.
    pub fn issued(&self) -> Issued {
        Issued::at(&self.root)
    }

    /// Where lock files are.
    pub fn locks_dir(&self) -> PathBuf {
        self.root.path(crate::store::files::locks::DIR)
    }

    /// Writes a log line, if a log listens.
    pub fn log(&self, level: Level, line: &Line) {
        self.log.log(level, line);
    }

    /// The log, for what writes to it by itself.
    pub fn syslog(&self) -> &Syslog {
        &self.log
    }

    /// Another handle of the log, for a part that keeps its own.
    pub fn new_syslog(&self) -> Syslog {
        Syslog::open(IDENT, &self.root).socket_only()
    }
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    raise_file_limit();
    ExitCode::from(run(std::env::args_os().skip(1)))
}

fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let (verb, args) = match parse::parse(args) {
        Ok(parse::Parsed::Verb(verb, args)) => (verb, args),
        Ok(parse::Parsed::Version) => {
            out::line(format_args!("{IDENT} {VERSION}"));
            return 0;
        }
        Ok(parse::Parsed::Help(verb)) => {
            out::raw(&verb.map_or_else(help::overview, help::of_verb));
            return 0;
        }
        Err(error) => {
            out::error(format_args!("Error: {}", error.message));
            if error.show_usage {
                out::error(format_args!("{}", help::overview().trim_end()));
            }
            return FATAL;
        }
    };
    let root = args.value(&table::ROOT).map_or_else(Root::system, Root::at);
    out::set_raw(args.has(&table::RAW));
    let ctx = Ctx::new(root, args.value(&table::CONFIG).map(PathBuf::from));
    match (verb.run)(&ctx, &args) {
        Ok(exit) => exit,
        Err(Fatal(message)) => {
            out::error(format_args!("Error: {message}"));
            FATAL
        }
    }
}

/// Thousands of connections and locks need as many descriptors; soft limits are often 1,024. Root
/// may go beyond the hard limit, others up to it.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= WANTED) {
        return;
    }
    let wanted = Rlimit {
        current: Some(WANTED),
        maximum: limit.maximum.map(|max| max.max(WANTED)),
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        // Staying with the old limit is no reason to stop; what needs more will say so.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        );
    }
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
