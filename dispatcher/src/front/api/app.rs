//! What everything works with, from one reading of the configuration to the next.

use super::feed::Hub;
use super::looks::Looks;
use super::meters::Meters;
use super::settings::Settings;
use crate::config::Config;
use crate::fleet::EngineOptions;
use crate::model::AppError;
use crate::store::files::tokens::TokenFile;
use crate::tasks::auth::Tokens;
use crate::tasks::{Dispatcher, Limits, Log};
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::Syslog;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The name of the program, in the log and in answers.
pub const IDENT: &str = "ctrl-exec-api";
/// Its version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a connection to an agent is kept for the next request.
const KEEP: Duration = Duration::from_secs(15);

/// What everything works with.
#[derive(Debug)]
pub struct App {
    /// The dispatcher.
    pub dispatcher: Dispatcher,
    /// The settings of the server.
    pub settings: Settings,
    /// The tokens that let callers in.
    pub tokens: Arc<Tokens>,
    /// The runs whose events are followed.
    pub hub: Arc<Hub>,
    /// What is counted.
    pub meters: Arc<Meters>,
    /// When agents were last asked for the results of runs.
    pub looks: Arc<Looks>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Prefix of default paths.
    pub root: Root,
    /// `--config`.
    pub config: Option<PathBuf>,
}

impl App {
    /// How the calls of a request are made.
    pub fn limits(&self) -> Limits {
        Limits {
            resumption: true,
            ..Limits::default()
        }
    }

    /// Reads the configuration. What does not depend on it is taken over from `before`.
    ///
    /// # Errors
    /// A file or a value that does not do.
    pub fn load(source: &Source, before: Option<&Self>) -> Result<Self, AppError> {
        let config = Config::load(&source.root, source.config.as_deref())?;
        let settings = Settings::read(&config)?;
        // What is read when it is first needed is looked at now, so that the start fails and not a
        // request.
        config.read_timeout()?;
        config.auth_hook_timeout()?;
        config.max_answer()?;
        let log_root = source.root.clone();
        let log = Log::new(move || Syslog::open(IDENT, &log_root));
        let options = EngineOptions {
            keep: Some(KEEP),
            ..EngineOptions::default()
        };
        Ok(Self {
            dispatcher: Dispatcher::new(source.root.clone(), config, log, options),
            settings,
            tokens: before
                .map(|app| Arc::clone(&app.tokens))
                .unwrap_or_else(|| Arc::new(Tokens::new(TokenFile::at(&source.root)))),
            meters: before
                .map(|app| Arc::clone(&app.meters))
                .unwrap_or_default(),
            hub: before.map(|app| Arc::clone(&app.hub)).unwrap_or_default(),
            looks: before.map(|app| Arc::clone(&app.looks)).unwrap_or_default(),
        })
    }
}
