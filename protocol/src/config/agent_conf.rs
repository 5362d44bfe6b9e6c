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
//! | `executor_max_children` | 64 | scripts the executor runs at the same time |
//!
//! Sizes are bytes, or take `K`, `M` or `G`.

use std::net::IpAddr;

use super::ip_list::IpList;
use super::lines::{Line, classify, is_space};
use super::profile::Profile;
use super::{ConfigError, MAX_FILE_BYTES, MAX_NAME, MAX_VALUE, Subject, Warning, keys, shown};
use crate::sorted_map::SortedMap;

/// Most profiles in one file (executor.md §6.1).
pub const MAX_PROFILES: usize = 64;
/// Most entries of `script_dirs` (executor.md §6.1).
pub const MAX_SCRIPT_DIRS: usize = 32;
/// Most tags; a bound of our own.
pub const MAX_TAGS: usize = 256;

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
            stdin_timeout: 10,
            async_runs_dir: None,
            revoked_serials: None,
            trusted_dispatchers_path: None,
            cert_staging_path: None,
            allow_root: false,
            max_output: 256 * 1024,
            memory_budget: 8 * 1024 * 1024,
            script_timeout: 0,
            async_max_records: 1000,
            async_max_bytes: 16 * 1024 * 1024,
            executor_max_children: 64,
            tags: SortedMap::new(),
            profiles: SortedMap::new(),
        }
    }
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
    /// Reads the whole file. `file` is its name for messages.
    ///
    /// The keys that only the front-end needs may be missing here, see [`AgentConf::listener`];
    /// apart from that a file is valid for both halves or for neither.
    ///
    /// # Errors
    /// The first fault, with its line.
    pub fn parse(text: &str, file: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ConfigError::whole(file, "file is larger than 1 MiB"));
        }
        let mut reader = Reader {
            conf: Self::default(),
            warnings: Vec::new(),
            seen: Vec::new(),
            section: Section::Top,
            number: 0,
        };
        for (index, line) in text.lines().enumerate() {
            reader.number = index + 1;
            reader
                .line(line)
                .map_err(|fault| ConfigError::at(file, index + 1, fault))?;
        }
        Ok((reader.conf, reader.warnings))
    }

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

/// Reads the value of a number, given the key for messages.
type ReadNumber = fn(&str, &str) -> Result<u32, String>;

/// Keys of one kind, so that each kind has its code once.
impl AgentConf {
    fn text(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "cert" => &mut self.cert,
            "key" => &mut self.key,
            "ca" => &mut self.ca,
            "hostname" => &mut self.hostname,
            "auth_hook" => &mut self.auth_hook,
            "executor_socket" => &mut self.executor_socket,
            "async_runs_dir" => &mut self.async_runs_dir,
            "revoked_serials" => &mut self.revoked_serials,
            "trusted_dispatchers_path" => &mut self.trusted_dispatchers_path,
            "cert_staging_path" => &mut self.cert_staging_path,
            _ => return None,
        })
    }

    fn number(&mut self, key: &str) -> Option<(&mut u32, ReadNumber)> {
        Some(match key {
            "max_children" => (&mut self.max_children, at_least_one),
            "async_max_records" => (&mut self.async_max_records, at_least_one),
            "executor_max_children" => (&mut self.executor_max_children, at_least_one),
            "auth_hook_timeout" => (&mut self.auth_hook_timeout, seconds),
            "stdin_timeout" => (&mut self.stdin_timeout, seconds),
            "script_timeout" => (&mut self.script_timeout, seconds),
            _ => return None,
        })
    }
}

enum Section {
    Top,
    Tags,
    Profile(String),
    Unknown,
}

struct Reader {
    conf: AgentConf,
    warnings: Vec<Warning>,
    seen: Vec<String>,
    section: Section,
    number: usize,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.contains('\0') {
            return Err("line contains a NUL byte".to_owned());
        }
        match classify(line) {
            Line::Empty => Ok(()),
            Line::Malformed => Err(format!("malformed line '{}'", shown(line.trim()))),
            Line::Section { word, name } => self.enter(word, name),
            Line::Key { key, value } => {
                if key.len() > MAX_NAME || value.len() > MAX_VALUE {
                    return Err(format!("'{}' is too long", shown(key)));
                }
                self.key(key, value)
            }
        }
    }

    fn enter(&mut self, word: &str, name: Option<&str>) -> Result<(), String> {
        self.section = if word.eq_ignore_ascii_case("profile") {
            let name = name.ok_or("profile section without a name: write [profile NAME]")?;
            if name.len() > MAX_NAME {
                return Err(format!("profile name is longer than {MAX_NAME} bytes"));
            }
            self.conf.profiles.get_or_default(name);
            if self.conf.profiles.len() > MAX_PROFILES {
                return Err(format!("more than {MAX_PROFILES} profiles"));
            }
            Section::Profile(name.to_owned())
        } else if word.eq_ignore_ascii_case("tags") {
            Section::Tags
        } else {
            self.warn(Subject::Key(word.to_owned()), "unknown section, ignored");
            Section::Unknown
        };
        Ok(())
    }

    fn key(&mut self, key: &str, value: &str) -> Result<(), String> {
        let blank = value.chars().all(is_space);
        match &self.section {
            Section::Top if blank => Err(format!("'{key}' has an empty value")),
            Section::Top => self.top(key, value),
            // The reference's executor would restrict scripts to these directories and its
            // front-end would not: an operator who wrote this meant to restrict something.
            Section::Tags | Section::Unknown if key == "script_dirs" => {
                Err("'script_dirs' must stand before the first section".to_owned())
            }
            Section::Tags => {
                self.conf.tags.insert(key.to_owned(), value.to_owned());
                if self.conf.tags.len() > MAX_TAGS {
                    return Err(format!("more than {MAX_TAGS} tags"));
                }
                Ok(())
            }
            Section::Unknown => Ok(()),
            Section::Profile(_) if blank => Err(format!("'{key}' has an empty value")),
            Section::Profile(name) => {
                let profile = self.conf.profiles.get_or_default(name);
                if let Some(message) = profile.set(key, value)? {
                    self.warn(Subject::Key(key.to_owned()), message);
                }
                Ok(())
            }
        }
    }

    fn top(&mut self, key: &str, value: &str) -> Result<(), String> {
        if self.seen.iter().any(|seen| seen == key) {
            self.warn(
                Subject::Key(key.to_owned()),
                "given more than once; the last one counts",
            );
        } else if self.seen.len() < 64 {
            self.seen.push(key.to_owned());
        }
        if key == "hostname" && !crate::names::is_agent_name(value) {
            return Err(format!(
                "'hostname' must be a host name, not '{}'",
                shown(value)
            ));
        }
        let conf = &mut self.conf;
        if let Some(text) = conf.text(key) {
            *text = Some(value.to_owned());
            return Ok(());
        }
        if let Some((number, read)) = conf.number(key) {
            *number = read(key, value)?;
            return Ok(());
        }
        match key {
            "port" => conf.port = Some(port(value)?),
            "bind" => conf.bind = Some(bind(value)?),
            "script_dirs" => self.script_dirs(value)?,
            "allowed_ips" => self.allowed_ips(value),
            "rate_limit_disable" => conf.rate_limit_disable = value.starts_with(['1', 'y', 'Y']),
            "rate_limit_volume" => {
                let default = conf.rate_limit_volume;
                self.conf.rate_limit_volume = self.rate_limit(key, value, default);
            }
            "rate_limit_probe" => {
                let default = conf.rate_limit_probe;
                self.conf.rate_limit_probe = self.rate_limit(key, value, default);
            }
            "allow_root" => conf.allow_root = keys::switch(key, value)?,
            "max_output" => conf.max_output = size(key, value, MAX_OUTPUT)?,
            "memory_budget" => conf.memory_budget = size(key, value, MAX_BUDGET)?,
            "async_max_bytes" => conf.async_max_bytes = keys::bytes(key, value, 1 << 40)?,
            // Documented by the reference, unused by it (agent.md §7.2).
            "pairing_port" | "pairing_max_queue" | "dispatcher_serial_path" | "dispatcher_cn" => {}
            _ => self.warn(Subject::Key(key.to_owned()), "unknown key, ignored"),
        }
        Ok(())
    }

    fn script_dirs(&mut self, value: &str) -> Result<(), String> {
        let dirs = keys::colon_list("script_dirs", value, MAX_SCRIPT_DIRS)?;
        for dir in &dirs {
            if dir.chars().all(|ch| ch == '/') {
                self.warn(
                    Subject::Entry(dir.clone()),
                    "as a script directory it permits nothing; leave script_dirs out to permit every path",
                );
            } else if !dir.starts_with('/') {
                self.warn(
                    Subject::Entry(dir.clone()),
                    "script directory is not absolute and permits nothing",
                );
            }
        }
        self.conf.script_dirs = Some(dirs);
        Ok(())
    }

    fn allowed_ips(&mut self, value: &str) {
        let (list, bad) = IpList::parse(value);
        for (entry, fault) in bad {
            self.warn(Subject::Entry(entry), fault);
        }
        if list.is_empty() {
            self.warn(
                Subject::Key("allowed_ips".to_owned()),
                "no usable entry: every peer is refused",
            );
        }
        self.conf.allowed_ips = Some(list);
    }

    fn rate_limit(&mut self, key: &str, value: &str, default: RateLimit) -> RateLimit {
        let mut parts = value
            .split('/')
            .map(|part| keys::number_u32(key, part.trim(), u32::MAX));
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(limit)), Some(Ok(window)), Some(Ok(block)), None) => RateLimit {
                limit,
                window,
                block,
            },
            _ => {
                self.warn(
                    Subject::Key(key.to_owned()),
                    "must be limit/window/block, three numbers; the default is used",
                );
                default
            }
        }
    }

    /// Keeps a bounded number, so that a hostile file cannot fill memory through its warnings.
    fn warn(&mut self, subject: Subject, message: &str) {
        if self.warnings.len() < 256 {
            let message = message.to_owned();
            self.warnings.push(Warning {
                line: self.number,
                subject,
                message,
            });
        }
    }
}

/// Two streams of this size and the frame around them must fit 32-bit lengths and a router.
const MAX_OUTPUT: u32 = 64 * 1024 * 1024;
const MAX_BUDGET: u32 = 1024 * 1024 * 1024;

fn port(value: &str) -> Result<u16, String> {
    let number = keys::number_u32("port", value, u32::from(u16::MAX))?;
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        _ => Err("'port' is out of range (1 to 65535)".to_owned()),
    }
}

fn bind(value: &str) -> Result<IpAddr, String> {
    value
        .parse()
        .map_err(|_| format!("'bind' must be an IP address, not '{}'", shown(value)))
}

fn at_least_one(key: &str, value: &str) -> Result<u32, String> {
    match keys::number_u32(key, value, 1_000_000)? {
        0 => Err(format!("'{key}' must be at least 1")),
        number => Ok(number),
    }
}

fn seconds(key: &str, value: &str) -> Result<u32, String> {
    keys::number_u32(key, value, 31_536_000)
}

fn size(key: &str, value: &str, max: u32) -> Result<u32, String> {
    let bytes = keys::bytes(key, value, u64::from(max))?;
    u32::try_from(bytes).map_err(|_| format!("'{key}' is out of range"))
}
