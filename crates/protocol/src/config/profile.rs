//! `[profile NAME]` sections: what a script may do (agent.md §7.4).
//!
//! Besides the reference's four keys these are read; the reference ignores them:
//!
//! | key | meaning |
//! |---|---|
//! | `no_network` | `yes`: the script gets a network namespace of its own with nothing in it |
//! | `timeout` | seconds until the script is killed; overrides `script_timeout`; 0 = none |
//! | `limit_cpu` | CPU seconds per process (RLIMIT_CPU) |
//! | `limit_memory` | address space per process, bytes or `K`/`M`/`G` (RLIMIT_AS) |
//! | `limit_files` | open files per process (RLIMIT_NOFILE) |
//! | `limit_processes` | processes of the script's user (RLIMIT_NPROC); for uid 0 those of the run (cgroup) |
//! | `limit_file_size` | largest file it may write, bytes or `K`/`M`/`G` (RLIMIT_FSIZE) |
//! | `processes` | `own`: sees and signals its own processes only; `host`: the host's |
//! | `kernel_settings` | `read-only`: /proc/sys, /sys and the like cannot be written; `host`: as usual |
//! | `unix_sockets` | `none`: no unix socket can be made; `host`: as usual |
//!
//! What the last three mean when they are absent depends on the user, see [`Profile::processes`].

use super::caps::Cap;
use super::keys;
use super::lines::{is_space, is_word};
use super::{MAX_NAME, shown};

/// Most capabilities in one profile (executor.md §6.1).
pub const MAX_CAPS: usize = 32;
/// Most writable paths in one profile (executor.md §6.1).
pub const MAX_WRITABLE: usize = 32;

/// One profile. The default is what an empty section means: nobody to run as, so it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// User the script runs as; the executor refuses a profile without it.
    pub run_as: Option<RunAs>,
    /// Capabilities the script keeps, in file order.
    pub caps: Vec<Cap>,
    /// When not empty: everything but these absolute paths is read-only, `/tmp` is private.
    pub writable: Vec<String>,
    /// Set PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// Run in an empty network namespace (ours).
    pub no_network: bool,
    /// Which processes the script sees (ours). None = its own, but those of the host when it runs
    /// as uid 0: the reference's scripts of that kind signal the host's daemons.
    pub processes: Option<Processes>,
    /// Whether kernel settings can be written (ours). None = no, but yes for uid 0.
    pub kernel_settings: Option<KernelSettings>,
    /// Whether unix sockets can be used (ours). None = yes.
    pub unix_sockets: Option<UnixSockets>,
    /// Seconds until the script is killed; `Some(0)` = never (ours).
    pub timeout: Option<u32>,
    /// Resource limits (ours).
    pub limits: Limits,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            run_as: None,
            caps: Vec::new(),
            writable: Vec::new(),
            no_new_privileges: true,
            no_network: false,
            processes: None,
            kernel_settings: None,
            unix_sockets: None,
            timeout: None,
            limits: Limits::default(),
        }
    }
}

/// The processes that a script sees and can signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Those it started: a process namespace with its own /proc.
    Own,
    /// All of the host.
    Host,
}

/// What a script may do to /proc/sys, /sys and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelSettings {
    /// Read them.
    ReadOnly,
    /// Whatever its user may.
    Host,
}

/// Whether a script may make unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixSockets {
    /// No, a system call filter refuses.
    None,
    /// Yes.
    Host,
}

/// Resource limits of a profile; none = as inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// RLIMIT_CPU, seconds.
    pub cpu: Option<u64>,
    /// RLIMIT_AS, bytes.
    pub memory: Option<u64>,
    /// RLIMIT_NOFILE.
    pub files: Option<u64>,
    /// RLIMIT_NPROC.
    pub processes: Option<u64>,
    /// RLIMIT_FSIZE, bytes.
    pub file_size: Option<u64>,
}

/// The `run_as` value: a user name, or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// As written.
    pub text: String,
    /// Its value when it is all digits. A user of that *name* still comes first
    /// (executor.md §5.1).
    pub number: Option<u32>,
}

impl RunAs {
    /// Reads a user name or a number of at most 32 bits.
    ///
    /// # Errors
    /// The fault, when the text is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "invalid run_as '{}' (a user name or numeric uid)",
                shown(text)
            )
        };
        if text.len() > MAX_NAME {
            return Err(fault());
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse::<u32>() {
                Ok(number) => Ok(Self {
                    text: text.to_owned(),
                    number: Some(number),
                }),
                Err(_) => Err(format!(
                    "invalid run_as '{}' (uid out of range)",
                    shown(text)
                )),
            };
        }
        let first = |ch: char| ch.is_ascii_alphabetic() || ch == '_';
        if text.starts_with(first) && text.chars().all(|ch| is_word(ch) || ch == '-') {
            return Ok(Self {
                text: text.to_owned(),
                number: None,
            });
        }
        Err(fault())
    }
}

impl Profile {
    /// Applies one `key = value` line of the section. Returns a warning for what is ignored.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<Option<&'static str>, String> {
        const MAX: u64 = u64::MAX >> 1;
        match key {
            "run_as" => self.run_as = Some(RunAs::parse(value)?),
            "caps" => self.caps = caps(value)?,
            "writable" => self.writable = writable(value)?,
            "no_new_privileges" => {
                self.no_new_privileges = keys::is_yes(value);
                if !self.no_new_privileges && !keys::is_no(value) {
                    return Ok(Some("unknown word; it switches no_new_privileges off"));
                }
            }
            "no_network" => self.no_network = keys::switch(key, value)?,
            "processes" => {
                let words = [("own", Processes::Own), ("host", Processes::Host)];
                self.processes = Some(keys::one_of(key, value, words)?);
            }
            "kernel_settings" => {
                let words = [
                    ("read-only", KernelSettings::ReadOnly),
                    ("host", KernelSettings::Host),
                ];
                self.kernel_settings = Some(keys::one_of(key, value, words)?);
            }
            "unix_sockets" => {
                let words = [("none", UnixSockets::None), ("host", UnixSockets::Host)];
                self.unix_sockets = Some(keys::one_of(key, value, words)?);
            }
            "timeout" => self.timeout = Some(keys::number_u32(key, value, 31_536_000)?),
            "limit_cpu" => self.limits.cpu = Some(keys::number(key, value, MAX)?),
            "limit_memory" => self.limits.memory = Some(keys::bytes(key, value, MAX)?),
            "limit_files" => self.limits.files = Some(keys::number(key, value, MAX)?),
            "limit_processes" => self.limits.processes = Some(keys::number(key, value, MAX)?),
            "limit_file_size" => self.limits.file_size = Some(keys::bytes(key, value, MAX)?),
            _ => return Ok(Some("unknown profile key, ignored")),
        }
        let cap_unknown = key == "caps" && self.caps.iter().any(|cap| cap.number.is_none());
        Ok(cap_unknown.then_some("a listed capability is not known here and grants nothing"))
    }
}

fn caps(value: &str) -> Result<Vec<Cap>, String> {
    let tokens = value
        .split(|ch| ch == ',' || is_space(ch))
        .filter(|token| !token.is_empty());
    let mut caps = Vec::new();
    for token in tokens {
        let hint = if token.starts_with('#') {
            " (comments must stand on a line of their own)"
        } else {
            ""
        };
        let cap = Cap::parse(token)
            .ok_or_else(|| format!("invalid capability '{}'{hint}", shown(token)))?;
        caps.push(cap);
    }
    if caps.len() > MAX_CAPS {
        return Err(format!("'caps' lists more than {MAX_CAPS} capabilities"));
    }
    Ok(caps)
}

fn writable(value: &str) -> Result<Vec<String>, String> {
    let paths = keys::colon_list("writable", value, MAX_WRITABLE)?;
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(format!(
            "invalid writable path '{}' (must be absolute)",
            shown(path)
        )),
        None => Ok(paths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_as_is_a_name_or_fits_32_bits() {
        assert_eq!(RunAs::parse("0").map(|user| user.number), Ok(Some(0)));
        assert_eq!(
            RunAs::parse("4294967295").map(|user| user.number),
            Ok(Some(u32::MAX))
        );
        assert_eq!(RunAs::parse("www-data").map(|user| user.number), Ok(None));
        for bad in [
            "4294967296",
            "99999999999999999999",
            "1bad name",
            "-1",
            "",
            " ",
            "a.b",
            "é",
        ] {
            assert!(RunAs::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_have_a_length() {
        let name = |length| RunAs::parse(&"a".repeat(length)).is_ok();
        assert!(name(MAX_NAME));
        assert!(!name(MAX_NAME + 1));
    }

    #[test]
    fn what_a_script_shares_with_the_host() {
        let mut profile = Profile::default();
        for (key, value) in [
            ("processes", "own"),
            ("kernel_settings", "read-only"),
            ("unix_sockets", "none"),
        ] {
            assert_eq!(profile.set(key, value), Ok(None), "{key}");
            let fault = profile.set(key, "all").unwrap_err();
            assert!(
                fault.contains(&format!("'{key}' must be {value} or host")),
                "{fault}"
            );
        }
        assert_eq!(profile.processes, Some(Processes::Own));
        assert_eq!(profile.kernel_settings, Some(KernelSettings::ReadOnly));
        assert_eq!(profile.unix_sockets, Some(UnixSockets::None));
    }

    #[test]
    fn capability_errors_carry_the_words_that_are_searched_for() {
        let fault = Profile::default()
            .set("caps", "CAP_CHOWN  # and more")
            .unwrap_err();
        assert!(fault.contains("invalid capability '#'"), "{fault}");
        assert!(fault.contains("line of their own"), "{fault}");
    }

    #[test]
    fn an_empty_writable_list_is_not_no_restriction() {
        assert!(Profile::default().set("writable", "::").is_err());
        assert!(Profile::default().set("writable", "rel/path").is_err());
        let mut profile = Profile::default();
        assert_eq!(profile.set("writable", "/a::/b:"), Ok(None));
        assert_eq!(profile.writable, ["/a", "/b"]);
    }
}
