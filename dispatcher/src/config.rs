//! The dispatcher's configuration (dispatcher.md §5) with its defaults applied.

use crate::store::runs::Retention;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::hostname;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::dispatcher_conf::{Settings, SettingsError};
use ctrl_exec_protocol::names;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file is, below the root.
pub const DEFAULT_PATH: &str = "/etc/ctrl-exec/ctrl-exec.conf";
/// Where the CA lives unless configured, below the root.
pub const DEFAULT_DIR: &str = "/etc/ctrl-exec";
/// The service user unless configured: owner of a new dispatcher key.
pub const DEFAULT_USER: &str = "ctrl-exec";

/// Largest configuration file read.
const MAX_FILE: u64 = 1 << 20;

const SECONDS: &str = "whole seconds";

/// A configuration.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    root: Root,
    settings: Settings,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Read(PathBuf, io::Error),
    /// Its content does not do.
    Settings(PathBuf, SettingsError),
}

impl Config {
    /// Reads the file at `path`, or the default one, which need not be there: every key has a
    /// default, below `root`.
    ///
    /// # Errors
    /// A file that cannot be read, or one that was named and is not there.
    pub fn load(root: &Root, path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path.is_some();
        let path = path.map_or_else(|| root.path(DEFAULT_PATH), Path::to_owned);
        let bytes = match Bounded::new(MAX_FILE).read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Vec::new(),
            other => other.map_err(|error| ConfigError::Read(path.clone(), error))?,
        };
        Ok(Self::of_bytes(root, path, &bytes))
    }

    /// The configuration that a file at `path` with this content is.
    pub fn of_bytes(root: &Root, path: PathBuf, bytes: &[u8]) -> Self {
        Self {
            path,
            root: root.clone(),
            settings: Settings::parse(&String::from_utf8_lossy(bytes)),
        }
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings as read.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The dispatcher's certificate.
    pub fn cert(&self) -> PathBuf {
        self.file("cert", "dispatcher.crt")
    }

    /// The dispatcher's key.
    pub fn key(&self) -> PathBuf {
        self.file("key", "dispatcher.key")
    }

    /// The CA certificate that agents are verified with.
    pub fn ca(&self) -> PathBuf {
        self.file("ca", "ca.crt")
    }

    /// A file of the configuration, else the one of this name in the default directory.
    fn file(&self, key: &str, name: &str) -> PathBuf {
        match self.settings.path(key) {
            Some(path) => PathBuf::from(path),
            None => self.root.path(DEFAULT_DIR).join(name),
        }
    }

    /// The directory of `ca.key`, `ca.crt` and `ca.serial`.
    pub fn ca_dir(&self) -> PathBuf {
        match self.settings.text("ca_dir") {
            Some(dir) => PathBuf::from(dir),
            None => self.root.path(DEFAULT_DIR),
        }
    }

    /// Prefix of default paths.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Whether `maintain` and `doctor` say when a backup is due (`backup_reminder`, yes).
    pub fn backup_reminder(&self) -> bool {
        self.settings
            .text("backup_reminder")
            .is_none_or(|text| !matches!(text, "no" | "off" | "0" | "false"))
    }

    /// The rotation state file.
    pub fn rotation_file(&self) -> PathBuf {
        match self.settings.text("rotation_file") {
            Some(path) => PathBuf::from(path),
            None => self.root.path("/var/lib/ctrl-exec/rotation.json"),
        }
    }

    /// This dispatcher's stable identity (pki-and-pairing.md §11).
    pub fn dispatcher_id(&self) -> String {
        match self.settings.text("dispatcher_id") {
            Some(id) => names::sanitize_dispatcher_id(id),
            None => names::sanitize_dispatcher_id(&hostname::short()),
        }
    }

    /// The user that owns a newly made dispatcher key.
    pub fn service_user(&self) -> &str {
        self.settings.text("service_user").unwrap_or(DEFAULT_USER)
    }

    /// Inactivity limit of each step of an agent call.
    pub fn read_timeout(&self) -> Result<Duration, ConfigError> {
        let key = if self.settings.text("read_timeout").is_some() {
            "read_timeout"
        } else {
            "timeout"
        };
        let seconds = self.number(key, 60, (1, 86_400), "whole seconds from 1 to 86400")?;
        Ok(Duration::from_secs(u64::from(seconds)))
    }

    /// Largest answer of an agent that is taken, in bytes (`max_answer`): a number, or one with `K`
    /// or `M`, from 64K to 64M.
    ///
    /// # Errors
    /// Not such a number.
    pub fn max_answer(&self) -> Result<usize, ConfigError> {
        let Some(text) = self.settings.text("max_answer") else {
            return Ok(crate::fleet::MAX_ANSWER);
        };
        let (digits, unit) = match text.strip_suffix(['K', 'k']) {
            Some(digits) => (digits, 1 << 10),
            None => text
                .strip_suffix(['M', 'm'])
                .map_or((text, 1), |digits| (digits, 1 << 20)),
        };
        digits
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .filter(|size| (64 << 10..=64 << 20).contains(size))
            .ok_or_else(|| {
                let error = SettingsError::Invalid {
                    key: "max_answer".to_owned(),
                    value: text.to_owned(),
                    expected: "bytes from 64K to 64M",
                };
                ConfigError::Settings(self.path.clone(), error)
            })
    }

    /// How long records of runs are kept: `run_retention` days, but no more than
    /// `run_retention_size` MiB.
    ///
    /// # Errors
    /// Numbers out of range.
    pub fn run_retention(&self) -> Result<Retention, ConfigError> {
        let days = self.number("run_retention", 30, (1, 3_650), "days from 1 to 3650")?;
        let expected = "MiB from 1 to 1000000";
        let size = self.number("run_retention_size", 256, (1, 1_000_000), expected)?;
        Ok(Retention {
            age: Duration::from_secs(u64::from(days) * 86_400),
            bytes: u64::from(size) << 20,
        })
    }

    /// Agent calls at once; as in the reference, what is no number or below 1 acts as 1.
    pub fn max_parallel(&self) -> usize {
        match self.settings.text("max_parallel") {
            None => default_parallel(),
            Some(text) => text.parse().unwrap_or(1).clamp(1, 65_535),
        }
    }

    /// The auth hook, if one is configured.
    pub fn auth_hook(&self) -> Option<&Path> {
        self.settings.text("auth_hook").map(Path::new)
    }

    /// How long the hook may take; `None` without limit.
    pub fn auth_hook_timeout(&self) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.number("auth_hook_timeout", 10, (0, 86_400), SECONDS)?;
        Ok((seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
    }

    /// Whether callers of the HTTP API are let in where no hook is configured.
    pub fn api_auth_default(&self) -> bool {
        let word = self.settings.text("api_auth_default");
        word.is_some_and(|word| word.eq_ignore_ascii_case("allow"))
    }

    /// Days of certificates made at renewal, if configured.
    pub fn cert_days(&self) -> Result<Option<u32>, ConfigError> {
        match self.settings.text("cert_days") {
            None => Ok(None),
            Some(_) => self
                .number("cert_days", 0, (1, 36_500), "a positive number of days")
                .map(Some),
        }
    }

    /// A whole number of the file, or its default.
    pub fn number(
        &self,
        key: &str,
        default: u32,
        range: (u32, u32),
        expected: &'static str,
    ) -> Result<u32, ConfigError> {
        self.settings
            .number(key, default, range, expected)
            .map_err(|error| ConfigError::Settings(self.path.clone(), error))
    }
}

/// Calls at once unless configured: waiting costs little, so a quarter of the descriptors, from 64
/// to 512.
fn default_parallel() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let quarter = limit.current.unwrap_or(u64::MAX) / 4;
    usize::try_from(quarter)
        .unwrap_or(usize::MAX)
        .clamp(64, 512)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read config {}: {error}", path.display()),
            Self::Settings(path, error) => write!(f, "config {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn config(text: &str) -> Result<Config, ConfigError> {
        let dir = TempDir::new();
        let path = dir.path().join("c");
        std::fs::write(&path, text).unwrap();
        Config::load(&Root::at(dir.path()), Some(&path))
    }

    #[test]
    fn defaults_and_odd_values() {
        let base = "cert=/c\nkey=/k\nca=/a\n";
        let plain = config(base).unwrap();
        assert!((64..=512).contains(&plain.max_parallel()));
        assert_eq!(plain.read_timeout().unwrap().as_secs(), 60);
        assert_eq!(plain.auth_hook_timeout().unwrap().unwrap().as_secs(), 10);
        assert_eq!(plain.cert_days().unwrap(), None);
        assert!(plain.ca_dir().ends_with("etc/ctrl-exec"));
        assert_eq!(plain.cert(), Path::new("/c"));
        for (text, parallel) in [("0", 1), ("-3", 1), ("x", 1), ("200", 200)] {
            let config = config(&format!("{base}max_parallel={text}\n")).unwrap();
            assert_eq!(config.max_parallel(), parallel, "{text}");
        }
        let odd = config(&format!(
            "{base}timeout=7\nauth_hook_timeout=0\ncert_days=x\n"
        ))
        .unwrap();
        assert_eq!(odd.read_timeout().unwrap().as_secs(), 7);
        assert!(odd.auth_hook_timeout().unwrap().is_none());
        let error = odd.cert_days().unwrap_err().to_string();
        assert!(
            error.contains("cert_days") && error.contains("'x'"),
            "{error}"
        );
        let both = config(&format!("{base}timeout=7\nread_timeout=9\n")).unwrap();
        assert_eq!(both.read_timeout().unwrap().as_secs(), 9);
    }

    /// A dispatcher needs no configuration to begin with, and `--root` moves everything.
    #[test]
    fn every_path_has_a_default_below_the_root() {
        let dir = TempDir::new();
        let config = Config::load(&Root::at(dir.path()), None).unwrap();
        for path in [
            config.cert(),
            config.key(),
            config.ca(),
            config.ca_dir(),
            config.rotation_file(),
        ] {
            assert!(path.starts_with(dir.path()), "{}", path.display());
        }
        assert!(config.cert().ends_with("etc/ctrl-exec/dispatcher.crt"));
        let path = dir.path().join("c");
        std::fs::write(&path, "cert=\nkey=0\n").unwrap();
        let config = Config::load(&Root::at(dir.path()), Some(&path)).unwrap();
        assert!(config.key().ends_with("etc/ctrl-exec/dispatcher.key"));
    }

    #[test]
    fn errors_name_file_and_key() {
        let missing = Config::load(&Root::system(), Some(Path::new("/nowhere/c"))).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/c"));
    }
}
