//! `agent.conf`: listener, limits, tags and privilege profiles (agent.md §7.1–§7.4).
//!
//! Besides the keys of the reference these are read at top level; the reference ignores them:
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `allow_root` | no | `yes`: `serve` agrees to run as uid 0 |
//! | `hostname` | the host's own name | name the agent pairs under and answers with |
//! | `bind` | all addresses | address the agent listens on |
//! | `max_output` | 256K | bytes kept of each output stream of a script; the middle is dropped |
//! | `memory_budget` | 8M | bytes the agent may hold for all its requests together |
//! | `script_timeout` | 0 = none | seconds until a script is killed |
//! | `async_max_records` | 1000 | async records kept per store |
//! | `async_max_bytes` | 16M | bytes of async records kept per store |
//! | `overrides` | none | file whose keys take the place of some here ([`super::overrides`]) |
//! | `log_level` | info | least grave lines that are logged: `info`, `warning` or `err` |
//! | `argument_text` | auto | how arguments reach the executor: `auto`, `utf8` or `bytes` |
//! | `restrict_scripts` | no | in direct mode scripts inherit the agent's restrictions |
//! | `executor_max_children` | 64 | scripts the executor runs at the same time |
//! | `executor_max_input` | 4M | bytes of requests that the executor holds, all together |
//! | `script_writers` | nobody | users and `%groups`, besides root, who may write scripts and directories above |
//!
//! Sizes are bytes, or take `K`, `M` or `G`.

use std::net::IpAddr;

use super::ConfigError;
use super::ip_list::IpList;
use super::profile::Profile;
use crate::sorted_map::SortedMap;

/// Most profiles in one file (executor.md §6.1).
pub const MAX_PROFILES: usize = 64;
/// Most entries of `script_dirs` (executor.md §6.1).
pub const MAX_SCRIPT_DIRS: usize = 32;
/// Most entries of `script_writers`; a bound of our own.
pub const MAX_SCRIPT_WRITERS: usize = 32;
/// Most tags; a bound of our own.
pub const MAX_TAGS: usize = 256;

/// The keys that may be overridden: what says where and as whom the agent listens, to whom, and what
/// it logs. What it may run is said in `agent.conf` and `scripts.conf` alone.
pub(super) const OVERRIDABLE: [&str; 5] = ["port", "bind", "allowed_ips", "hostname", "log_level"];

/// Everything `agent.conf` says. Keys whose default is a path are `None` when absent: the caller
/// applies the default, since `--root` moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConf {
    /// TCP port; the front-end requires it ([`AgentConf::listener`]).
    pub port: Option<u16>,
    /// Certificate file; required by the front-end.
    pub cert: Option<String>,
    /// Key file; required by the front-end.
    pub key: Option<String>,
    /// CA file; required by the front-end.
    pub ca: Option<String>,
    /// Name to pair under and to answer with; none = the host's own. Routers are all called
    /// `OpenWrt` until somebody names them.
    pub hostname: Option<String>,
    /// Address to listen on; none = all.
    pub bind: Option<IpAddr>,
    /// Directories scripts must be in; none = no restriction.
    pub script_dirs: Option<Vec<String>>,
    /// Peers that may connect; none = all, an empty list = nobody.
    pub allowed_ips: Option<IpList>,
    /// Switches the rate limiter off.
    pub rate_limit_disable: bool,
    /// Connections per window (agent.md §11).
    pub rate_limit_volume: RateLimit,
    /// Failed handshakes per window.
    pub rate_limit_probe: RateLimit,
    /// Most requests handled at the same time, 1 or more.
    pub max_children: u32,
    /// Program asked before a run; the front-end checks that it is executable.
    pub auth_hook: Option<String>,
    /// Seconds for the hook; 0 = no limit.
    pub auth_hook_timeout: u32,
    /// Socket of the executor; present = executor mode.
    pub executor_socket: Option<String>,
    /// In direct mode, too, the agent gives up what it does not need itself; scripts inherit that.
    pub restrict_scripts: bool,
    /// Seconds a script may take to read its stdin (direct mode).
    pub stdin_timeout: u32,
    /// Store of async runs.
    pub async_runs_dir: Option<String>,
    /// Revocation list.
    pub revoked_serials: Option<String>,
    /// Trust map.
    pub trusted_dispatchers_path: Option<String>,
    /// Where a renewed certificate waits.
    pub cert_staging_path: Option<String>,
    /// File of overrides.
    pub overrides: Option<String>,
    /// The least grave lines that are logged.
    pub log_level: LogLevel,
    /// How characters of arguments become bytes of the executor's frame.
    pub argument_text: ArgumentText,
    /// Agree to serve as uid 0.
    pub allow_root: bool,
    /// Bytes kept of each output stream.
    pub max_output: u32,
    /// Bytes all requests may hold together.
    pub memory_budget: u32,
    /// Seconds until a script is killed; 0 = never.
    pub script_timeout: u32,
    /// Async records kept.
    pub async_max_records: u32,
    /// Bytes of async records kept.
    pub async_max_bytes: u64,
    /// Scripts the executor runs at the same time.
    pub executor_max_children: u32,
    /// Bytes of large requests that the executor holds at a time.
    pub executor_max_input: u32,
    /// Users and, after `%`, groups that may change scripts and the directories above them.
    pub script_writers: Vec<String>,
    /// `[tags]`.
    pub tags: SortedMap<String>,
    /// `[profile NAME]` sections.
    pub profiles: SortedMap<Profile>,
}

impl Default for AgentConf {
    fn default() -> Self {
        Self {
            port: None,
            cert: None,
            key: None,
            ca: None,
            hostname: None,
            bind: None,
            script_dirs: None,
            allowed_ips: None,
            rate_limit_disable: false,
            rate_limit_volume: RateLimit {
                limit: 10,
                window: 60,
                block: 300,
            },
            rate_limit_probe: RateLimit {
                limit: 3,
                window: 600,
                block: 3600,
            },
            max_children: 256,
            auth_hook: None,
            auth_hook_timeout: 10,
            executor_socket: None,
            restrict_scripts: false,
            stdin_timeout: 10,
            async_runs_dir: None,
            revoked_serials: None,
            trusted_dispatchers_path: None,
            cert_staging_path: None,
            overrides: None,
            log_level: LogLevel::Info,
            argument_text: ArgumentText::Auto,
            allow_root: false,
            max_output: 256 * 1024,
            memory_budget: 8 * 1024 * 1024,
            script_timeout: 0,
            async_max_records: 1000,
            async_max_bytes: 16 * 1024 * 1024,
            executor_max_children: 64,
            executor_max_input: 4 * 1024 * 1024,
            script_writers: Vec::new(),
            tags: SortedMap::new(),
            profiles: SortedMap::new(),
        }
    }
}

/// How grave a line must be to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Info,
    /// What is worth a look.
    Warning,
    /// What failed.
    Err,
}

/// How characters of arguments become bytes in executor mode. A dispatcher of 0.12.3 sends each byte
/// as one character, and its agents turn them back; ours sends characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentText {
    /// Bytes for a dispatcher that is recognised as 0.12.3's, else UTF-8.
    Auto,
    /// UTF-8, whoever calls.
    Utf8,
    /// Each character a byte, whoever calls.
    Bytes,
}

/// `limit/window/block`: this many events within `window` seconds block for `block` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Events; 0 switches the test off.
    pub limit: u32,
    /// Seconds.
    pub window: u32,
    /// Seconds.
    pub block: u32,
}

/// The four keys without which the front-end cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener<'a> {
    /// TCP port.
    pub port: u16,
    /// Certificate file.
    pub cert: &'a str,
    /// Key file.
    pub key: &'a str,
    /// CA file.
    pub ca: &'a str,
}

impl AgentConf {
    /// The keys the front-end needs to listen.
    ///
    /// # Errors
    /// `Missing required config key '<k>'` for the first that is absent, in the order port, cert,
    /// key, ca.
    pub fn listener(&self, file: &str) -> Result<Listener<'_>, ConfigError> {
        let missing =
            |key| ConfigError::whole(file, format!("Missing required config key '{key}'"));
        Ok(Listener {
            port: self.port.ok_or_else(|| missing("port"))?,
            cert: self.cert.as_deref().ok_or_else(|| missing("cert"))?,
            key: self.key.as_deref().ok_or_else(|| missing("key"))?,
            ca: self.ca.as_deref().ok_or_else(|| missing("ca"))?,
        })
    }
}
