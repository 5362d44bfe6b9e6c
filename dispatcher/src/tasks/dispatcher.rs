//! What every task works with: configuration, stores, engine and log of one dispatcher.

use super::log::Log;
use super::select::Choice;
use crate::config::Config;
use crate::fleet::{Engine, EngineOptions, Identity, Plan, Target};
use crate::model::AppError;
use crate::store::files::issued::Issued;
use crate::store::files::locks::{self, LockDir};
use crate::store::files::registry::{self, Registry};
use crate::store::files::revoked;
use crate::store::files::runs::{self, RunStore};
use crate::store::locks::Locks;
use crate::store::runs::Runs;
use crate::trust;
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::random;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One dispatcher: made once by a program, used by every task, from any thread.
#[derive(Debug)]
pub struct Dispatcher {
    /// Prefix of default paths.
    pub root: Root,
    /// The configuration.
    pub config: Config,
    /// Where tasks write their log lines.
    pub log: Arc<Log>,
    engine: Engine,
    runs: Arc<dyn Runs>,
    locks: Arc<dyn Locks>,
    identities: Mutex<Option<Loaded>>,
}

/// Our identities as they were read, and the state of the files they were read from.
#[derive(Debug)]
struct Loaded {
    stamps: Vec<Stamp>,
    resumption: bool,
    identities: Identities,
}

/// Device, file, time and size: what changes when a file is replaced.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// The certificates that calls are made with.
#[derive(Clone, Debug)]
pub struct Identities {
    /// Ours.
    pub current: Identity,
    /// Serial of ours, as agents are told it.
    pub serial: String,
    /// The one from before a rotation, while agents still need it.
    pub previous: Option<Identity>,
    /// Why the one before a rotation is not to be had, if it should be.
    pub warning: Option<String>,
}

impl Identities {
    /// The one that an agent is to be shown: the one before a rotation until the agent has
    /// confirmed the new one; and the other one if it refuses that.
    pub fn of(&self, target: &Target) -> Identity {
        match &self.previous {
            Some(previous) if target.knows != self.serial => {
                previous.clone().or(Some(&self.current))
            }
            previous => self.current.clone().or(previous.as_ref()),
        }
    }
}

/// What a caller wants of the calls of one task; what is not said is configured.
#[derive(Default)]
pub struct Limits {
    /// Calls at once.
    pub parallel: Option<usize>,
    /// Rolling: at most so many hosts at a time.
    pub batch: Option<Portion>,
    /// Start no further host after so many failures.
    pub max_failures: Option<Portion>,
    /// Limit of each step of a call.
    pub timeout: Option<Duration>,
    /// When everything that is not over ends.
    pub deadline: Option<Instant>,
    /// Agents may show a certificate with another name than the one paired.
    pub any_name: bool,
    /// Remember TLS sessions, which pays when agents are called again and again.
    pub resumption: bool,
    /// Called from the engine's threads when the task has something to tell after it had nothing:
    /// a front end with a loop of its own wakes it here.
    pub notify: Option<Box<dyn Fn() + Send + Sync>>,
}

/// A number of hosts, or a share of all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Portion {
    /// So many.
    Count(usize),
    /// So many of a hundred.
    Percent(usize),
}

impl Portion {
    /// Reads `N` or `N%`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            None => text.parse().ok().filter(|n| *n > 0).map(Self::Count),
            Some(percent) => percent
                .parse()
                .ok()
                .filter(|percent| (1..=100).contains(percent))
                .map(Self::Percent),
        }
    }

    /// How many that is of `total`, at least 1.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (total * percent).div_ceil(100).max(1),
        }
    }
}

impl Dispatcher {
    /// A dispatcher over this configuration. `options` say whether the program lives on after one
    /// task and keeps connections.
    pub fn new(root: Root, config: Config, log: Log, options: EngineOptions) -> Self {
        Self {
            runs: Arc::new(RunStore::new(root.path(runs::DIR))),
            locks: Arc::new(LockDir::new(root.path(locks::DIR))),
            root,
            config,
            log: Arc::new(log),
            engine: Engine::new(options),
            identities: Mutex::default(),
        }
    }

    /// The agents.
    pub fn agents(&self) -> Registry {
        Registry::new(self.root.path(registry::DIR))
    }

    /// The certificates that agents were given.
    pub fn issued(&self) -> Issued {
        Issued::at(&self.root)
    }

    /// The runs.
    pub fn runs(&self) -> Arc<dyn Runs> {
        Arc::clone(&self.runs)
    }

    /// The locks.
    pub fn locks(&self) -> Arc<dyn Locks> {
        Arc::clone(&self.locks)
    }

    /// Makes calls.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Our certificates, read again when their files have changed. The same files give the same
    /// identities, so that kept connections serve from task to task.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn identities(&self, resumption: bool) -> Result<Identities, AppError> {
        self.reconcile();
        let files = trust::identity_files(&self.config);
        let before = files.suffixed(".prev");
        let paths = [
            &files.cert,
            &files.key,
            &before.cert,
            &before.key,
            &self.config.ca(),
        ];
        let stamps: Vec<Stamp> = paths.iter().map(|path| stamp(path)).collect();
        let mut cached = self
            .identities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = cached.as_ref() {
            if loaded.stamps == stamps && loaded.resumption == resumption {
                return Ok(loaded.identities.clone());
            }
        }
        let current = Identity::new(trust::client_config(&self.config, resumption)?);
        let serial = crate::ca::trust_serial(&files.cert)?;
        // Without the old pair, agents not told of the new one are out of reach; the others not.
        let (previous, warning) = match trust::previous_client_config(&self.config, resumption) {
            Ok(previous) => (previous.map(Identity::new), None),
            Err(error) => {
                let warning = format!("the certificate before the rotation: {error}");
                (None, Some(warning))
            }
        };
        let identities = Identities {
            current,
            serial,
            previous,
            warning,
        };
        *cached = Some(Loaded {
            stamps,
            resumption,
            identities: identities.clone(),
        });
        Ok(identities)
    }

    /// How calls to so many hosts are made.
    ///
    /// # Errors
    /// Bad settings, or a revocation list that cannot be read: going on without it would let the
    /// revoked in.
    pub fn plan(&self, limits: &Limits, hosts: usize) -> Result<Plan, AppError> {
        let step = match limits.timeout {
            Some(timeout) => timeout,
            None => self.config.read_timeout()?,
        };
        let revoked = revoked::load(&self.root).map_err(|error| {
            let path = revoked::path(&self.root);
            AppError::system(format!("cannot read {}: {error}", path.display()))
        })?;
        let parallel = match (limits.batch, limits.parallel) {
            (Some(batch), _) => batch.of(hosts),
            (None, Some(parallel)) => parallel.max(1),
            (None, None) => self.config.max_parallel(),
        };
        Ok(Plan {
            revoked: Arc::new(revoked),
            max_answer: self.config.max_answer()?,
            max_failures: limits
                .max_failures
                .map_or(usize::MAX, |most| most.of(hosts)),
            deadline: limits.deadline,
            rolling: limits.batch.is_some(),
            any_name: limits.any_name,
            agents: Some(self.agents()),
            ..Plan::new(parallel, step)
        })
    }

    /// The host words that a choice means.
    ///
    /// # Errors
    /// Nobody, or a registry or record that cannot be read.
    pub fn select(&self, choice: &Choice) -> Result<Vec<String>, AppError> {
        choice.words(&self.agents(), &*self.runs)
    }
}

/// A new request id.
///
/// # Errors
/// The system has no random numbers.
pub fn new_reqid() -> Result<String, AppError> {
    random::hex_id().map_err(|error| AppError::system(format!("no random numbers: {error}")))
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.len(),
    ))
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits")
            .field("parallel", &self.parallel)
            .field("batch", &self.batch)
            .field("max_failures", &self.max_failures)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Portion;

    #[test]
    fn portions() {
        let portion = |text: &str, total| Portion::parse(text).map(|portion| portion.of(total));
        assert_eq!(portion("5", 100), Some(5));
        assert_eq!(portion("10%", 100), Some(10));
        assert_eq!(portion("10%", 3), Some(1));
        assert_eq!(portion("34%", 3), Some(2));
        for bad in ["", "0", "0%", "101%", "-1", "x", "%", "1.5"] {
            assert_eq!(portion(bad, 10), None, "{bad}");
        }
    }
}
