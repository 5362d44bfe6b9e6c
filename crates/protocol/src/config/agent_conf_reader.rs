//! How `agent.conf` is read, line by line.

use std::net::IpAddr;

use super::agent_conf::{
    AgentConf, ArgumentText, LogLevel, MAX_PROFILES, MAX_SCRIPT_DIRS, MAX_SCRIPT_WRITERS, MAX_TAGS,
    OVERRIDABLE, RateLimit,
};
use super::ip_list::IpList;
use super::lines::{BOM, HAS_BOM, Line, classify, is_space};
use super::{ConfigError, MAX_FILE_BYTES, MAX_NAME, MAX_VALUE, Subject, Warning, keys, shown};

/// Reads the value of a number, given the key for messages.
type ReadNumber = fn(&str, &str) -> Result<u32, String>;

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
        let mut reader = Reader::default();
        for (index, line) in text.lines().enumerate() {
            reader
                .line(index + 1, line)
                .map_err(|fault| ConfigError::at(file, index + 1, fault))?;
        }
        Ok(reader.finish())
    }

    /// Keys of one kind, so that each kind has its code once.
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
            "overrides" => &mut self.overrides,
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

#[derive(Default)]
enum Section {
    #[default]
    Top,
    Tags,
    Profile(String),
    Unknown,
}

/// Takes the lines of one file.
#[derive(Default)]
pub(super) struct Reader {
    conf: AgentConf,
    warnings: Vec<Warning>,
    seen: Vec<String>,
    section: Section,
    number: usize,
    overriding: bool,
}

impl Reader {
    /// A reader of overrides for what another file said.
    pub(super) fn overriding(conf: AgentConf) -> Self {
        Self {
            conf,
            overriding: true,
            ..Self::default()
        }
    }

    /// What was read, and what is worth a warning.
    pub(super) fn finish(self) -> (AgentConf, Vec<Warning>) {
        (self.conf, self.warnings)
    }

    /// The next line and its number; the fault, if it has one.
    pub(super) fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        self.number = number;
        if line.contains('\0') {
            return Err("line contains a NUL byte".to_owned());
        }
        match classify(line) {
            Line::Empty => Ok(()),
            Line::Malformed if line.starts_with(BOM) => Err(HAS_BOM.to_owned()),
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
        if self.overriding {
            return Err("a file of overrides has no sections".to_owned());
        }
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
        if self.overriding && !OVERRIDABLE.contains(&key) {
            return Err(format!("'{}' cannot be overridden", shown(key)));
        }
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
            "script_writers" => conf.script_writers = script_writers(value)?,
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
            "log_level" => conf.log_level = log_level(value)?,
            "argument_text" => conf.argument_text = argument_text(value)?,
            "restrict_scripts" => conf.restrict_scripts = keys::switch(key, value)?,
            "allow_root" => conf.allow_root = keys::switch(key, value)?,
            "executor_max_input" => conf.executor_max_input = size(key, value, MAX_INPUT)?,
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
/// As much as one frame may hold, for each script that runs.
const MAX_INPUT: u32 = 1024 * 1024 * 1024;
const MAX_BUDGET: u32 = 1024 * 1024 * 1024;

/// A colon list of user names, and group names after `%`.
fn script_writers(value: &str) -> Result<Vec<String>, String> {
    let names = keys::colon_list("script_writers", value, MAX_SCRIPT_WRITERS)?;
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    let usable = |name: &&String| {
        let name = name.strip_prefix('%').unwrap_or(name);
        !name.is_empty() && name.len() <= MAX_NAME && !name.contains(is_space)
    };
    match names.iter().find(|name| !usable(name)) {
        None => Ok(names),
        Some(bad) => Err(format!(
            "'script_writers' takes user names and %group names, not '{}'",
            shown(bad)
        )),
    }
}

fn port(value: &str) -> Result<u16, String> {
    let number = keys::number_u32("port", value, u32::from(u16::MAX))?;
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        _ => Err("'port' is out of range (1 to 65535)".to_owned()),
    }
}

fn log_level(value: &str) -> Result<LogLevel, String> {
    match value {
        "info" => Ok(LogLevel::Info),
        "warning" => Ok(LogLevel::Warning),
        "err" => Ok(LogLevel::Err),
        _ => Err(format!(
            "'log_level' must be info, warning or err, not '{}'",
            shown(value)
        )),
    }
}

fn argument_text(value: &str) -> Result<ArgumentText, String> {
    match value {
        "auto" => Ok(ArgumentText::Auto),
        "utf8" => Ok(ArgumentText::Utf8),
        "bytes" => Ok(ArgumentText::Bytes),
        _ => Err(format!(
            "'argument_text' must be auto, utf8 or bytes, not '{}'",
            shown(value)
        )),
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
