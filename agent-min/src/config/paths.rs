//! Where the agent's files are: the defaults below `--root`, overridden by agent.conf.

use ctrl_exec_host::Root;
use ctrl_exec_protocol::config::AgentConf;
use std::path::PathBuf;

/// The agent's configuration directory.
pub const ETC: &str = "/etc/ctrl-exec-agent";
/// The agent's state directory.
pub const VAR: &str = "/var/lib/ctrl-exec-agent";
/// User and group the agent serves as.
pub const USER: &str = "ctrl-exec-agent";

/// The root prefix and the two configuration files in use.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Prefix of default paths.
    pub root: Root,
    /// agent.conf.
    pub config: PathBuf,
    /// scripts.conf.
    pub allowlist: PathBuf,
}

impl Paths {
    /// Paths below `root`, with the options `--config` and `--allowlist` if given.
    pub fn new(root: Root, config: Option<PathBuf>, allowlist: Option<PathBuf>) -> Paths {
        let config = config.unwrap_or_else(|| root.path("/etc/ctrl-exec-agent/agent.conf"));
        let allowlist = allowlist.unwrap_or_else(|| root.path("/etc/ctrl-exec-agent/scripts.conf"));
        Paths {
            root,
            config,
            allowlist,
        }
    }

    /// The configuration directory, `/etc/ctrl-exec-agent`.
    pub fn etc(&self) -> PathBuf {
        self.root.path(ETC)
    }

    /// The state directory, `/var/lib/ctrl-exec-agent`.
    pub fn var(&self) -> PathBuf {
        self.root.path(VAR)
    }

    /// The trust map that pairing writes, and that `serve` reads by default.
    pub fn default_map(&self) -> PathBuf {
        self.root
            .path("/var/lib/ctrl-exec-agent/ctrl-exec-dispatchers")
    }

    /// The trust map in use.
    pub fn map(&self, conf: &AgentConf) -> PathBuf {
        or(&conf.trusted_dispatchers_path, || self.default_map())
    }

    /// The revocation file in use.
    pub fn revoked(&self, conf: &AgentConf) -> PathBuf {
        or(&conf.revoked_serials, || {
            self.root.path("/etc/ctrl-exec-agent/revoked-serials")
        })
    }

    /// Where a renewed certificate waits.
    pub fn staged(&self, conf: &AgentConf) -> PathBuf {
        or(&conf.cert_staging_path, || {
            self.root.path("/var/lib/ctrl-exec-agent/agent.crt.staged")
        })
    }

    /// CA certificates that a dispatcher handed over, until root puts them in the CA file's place.
    pub fn handed_ca(&self) -> PathBuf {
        self.var().join("ca.crt.handed")
    }

    /// The revocation list of a dispatcher, whose id is a good one.
    pub fn crl(&self, dispatcher: &str) -> PathBuf {
        self.var().join(format!("revoked-by-{dispatcher}.crl"))
    }

    /// The store of async runs.
    pub fn runs(&self, conf: &AgentConf) -> PathBuf {
        or(&conf.async_runs_dir, || {
            self.root.path("/var/lib/ctrl-exec-agent/runs")
        })
    }
}

fn or(configured: &Option<String>, default: impl FnOnce() -> PathBuf) -> PathBuf {
    configured.as_ref().map_or_else(default, PathBuf::from)
}
