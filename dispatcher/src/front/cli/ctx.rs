//! What every verb starts from.

use crate::config::Config;
use crate::fleet::EngineOptions;
use crate::model::AppError;
use crate::store::files::issued::Issued;
use crate::store::files::registry::Registry;
use crate::tasks::{Dispatcher, Log};
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use std::fmt;
use std::path::PathBuf;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Ident of our log lines.
pub const IDENT: &str = "ctrl-exec-dispatcher";

/// Exit status of a verb that did its work.
pub type Exit = u8;

/// What every verb starts from.
pub struct Ctx {
    /// Prefix of default paths.
    pub root: Root,
    /// `--config`.
    pub config_path: Option<PathBuf>,
    log: Syslog,
}

impl Ctx {
    pub fn new(root: Root, config_path: Option<PathBuf>) -> Self {
        // Without a log socket, lines would go to standard error, among what the operator reads.
        let log = Syslog::open(IDENT, &root).socket_only();
        Self {
            root,
            config_path,
            log,
        }
    }

    /// Reads the configuration.
    pub fn config(&self) -> Result<Config, AppError> {
        Ok(Config::load(&self.root, self.config_path.as_deref())?)
    }

    /// The agent registry.
    pub fn registry(&self) -> Registry {
        Registry::new(self.root.path(crate::store::files::registry::DIR))
    }

    /// The certificates that agents were given.
    pub fn issued(&self) -> Issued {
        Issued::at(&self.root)
    }

    /// Where lock files are.
    pub fn locks_dir(&self) -> PathBuf {
        self.root.path(crate::store::files::locks::DIR)
    }

    /// Everything tasks work with; lives for this one command.
    pub fn dispatcher(&self) -> Result<Dispatcher, AppError> {
        self.dispatcher_that(EngineOptions::default())
    }

    /// The same with an engine of these options.
    pub fn dispatcher_that(&self, options: EngineOptions) -> Result<Dispatcher, AppError> {
        let (root, config) = (self.root.clone(), self.config()?);
        let log_root = self.root.clone();
        let log = Log::new(move || Syslog::open(IDENT, &log_root).socket_only());
        Ok(Dispatcher::new(root, config, log, options))
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

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
