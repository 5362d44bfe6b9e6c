//! The command line: each option stands in one table, which says its name, its value, the modes it
//! is for, what the usage tells of it and what it sets. Reading is `pico-args`' part: options may
//! stand anywhere, as `--name value` or `--name=value`; of one given twice the last counts.

use crate::pairing::{Options, WAIT};
use ctrl_exec_host::Root;
use ctrl_exec_protocol::text::Untrusted;
use pico_args::{Arguments, Error};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The command line.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) mode: Option<String>,
    pub(super) config: Option<PathBuf>,
    pub(super) allowlist: Option<PathBuf>,
    pub(super) root: Option<PathBuf>,
    pub(super) version: bool,
    pub(super) help: bool,
    pub(super) wait_for_port: bool,
    pub(super) pairing: Options,
    given: Vec<&'static Spec>,
}

/// One option.
#[derive(Debug)]
struct Spec {
    name: &'static str,
    /// The one-letter form, or nothing.
    short: &'static str,
    /// What its value is called; nothing: it takes none.
    value: &'static str,
    /// The modes it is for; none: all of them.
    modes: &'static [&'static str],
    help: &'static str,
    set: fn(&mut Args, OsString) -> Result<(), String>,
}

/// The modes for people, with what the usage tells of them.
const MODES: [(&str, &str); 9] = [
    ("serve", "answer the dispatcher (foreground)"),
    ("request-pairing", "ask a dispatcher for a certificate"),
    (
        "pairing-status",
        "say whether this host is paired, and until when",
    ),
    ("paired", "the same as an exit code: 0 paired, 1 not"),
    ("self-check", "check configuration, certificate and scripts"),
    (
        "reload",
        "have the agent read its files again; exit 1 when it cannot",
    ),
    ("self-ping", "ping the agent running on this host"),
    (
        "cert-staged",
        "exit 0 when a renewed certificate waits, else 1",
    ),
    (
        "promote-cert",
        "put a renewed certificate in place (before serve starts)",
    ),
];

const EVERY: &[&str] = &[];
const PAIRING: &[&str] = &["request-pairing", WAIT];

const OPTIONS: [Spec; 14] = [
    Spec {
        name: "--config",
        short: "",
        value: "FILE",
        modes: EVERY,
        help: "default /etc/ctrl-exec-agent/agent.conf",
        set: |args, value| {
            args.config = Some(value.into());
            Ok(())
        },
    },
    Spec {
        name: "--allowlist",
        short: "",
        value: "FILE",
        modes: EVERY,
        help: "default /etc/ctrl-exec-agent/scripts.conf",
        set: |args, value| {
            args.allowlist = Some(value.into());
            Ok(())
        },
    },
    Spec {
        name: "--root",
        short: "",
        value: "DIR",
        modes: EVERY,
        help: "prefix of all default paths",
        set: |args, value| {
            args.root = Some(absolute(value.into())?);
            Ok(())
        },
    },
    Spec {
        name: "--version",
        short: "-V",
        value: "",
        modes: EVERY,
        help: "print the version",
        set: |args, _| {
            args.version = true;
            Ok(())
        },
    },
    Spec {
        name: "--help",
        short: "-h",
        value: "",
        modes: EVERY,
        help: "print this text",
        set: |args, _| {
            args.help = true;
            Ok(())
        },
    },
    Spec {
        name: "--wait-for-port",
        short: "",
        value: "",
        modes: &["serve"],
        help: "of serve: wait for a port that another program has",
        set: |args, _| {
            args.wait_for_port = true;
            Ok(())
        },
    },
    Spec {
        name: "--dispatcher",
        short: "",
        value: "HOST",
        modes: PAIRING,
        help: "required",
        set: |args, value| {
            args.pairing.dispatcher = Some(text(value)?);
            Ok(())
        },
    },
    Spec {
        name: "--port",
        short: "",
        value: "N",
        modes: &["request-pairing", WAIT, "self-ping"],
        help: "pairing port of the dispatcher, default 7444",
        set: |args, value| {
            args.pairing.port = Some(port(&text(value)?)?);
            Ok(())
        },
    },
    Spec {
        name: "--lookup-by",
        short: "",
        value: "WHAT",
        modes: PAIRING,
        help: "'ip' or 'hostname': how the dispatcher finds this host",
        set: |args, value| {
            args.pairing.lookup_by = Some(text(value)?);
            Ok(())
        },
    },
    Spec {
        name: "--key-type",
        short: "",
        value: "TYPE",
        modes: PAIRING,
        help: "p256, p384 or rsa2048 (default: follow HOST)",
        set: |args, value| {
            args.pairing.key_type = Some(text(value)?);
            Ok(())
        },
    },
    Spec {
        name: "--ca",
        short: "",
        value: "FILE",
        modes: PAIRING,
        help: "the dispatcher's ca.crt, carried here: talk to no one else",
        set: |args, value| {
            args.pairing.ca = Some(value.into());
            Ok(())
        },
    },
    Spec {
        name: "--replace-ca",
        short: "",
        value: "",
        modes: PAIRING,
        help: "leave the CA this host has for the dispatcher's",
        set: |args, _| {
            args.pairing.replace_ca = true;
            Ok(())
        },
    },
    Spec {
        name: "--timeout",
        short: "",
        value: "SECONDS",
        modes: PAIRING,
        help: "how long to wait for the decision",
        set: |args, value| {
            args.pairing.timeout = Some(seconds(&text(value)?)?);
            Ok(())
        },
    },
    Spec {
        name: "--background",
        short: "",
        value: "",
        modes: PAIRING,
        help: "print the request id and go on waiting in the background",
        set: |args, _| {
            args.pairing.background = true;
            Ok(())
        },
    },
];

impl Args {
    /// Reads the arguments; an error is one line that names the fault.
    pub(super) fn parse(all: &[OsString]) -> Result<Args, String> {
        let mut args = Args::default();
        let mut words = Arguments::from_vec(separated(all));
        // A value may look like an option, so those that take one are read first.
        for spec in OPTIONS.iter().filter(|spec| !spec.value.is_empty()) {
            while let Some(value) = take_value(&mut words, spec.name)? {
                (spec.set)(&mut args, value)?;
                args.given.push(spec);
            }
        }
        for spec in OPTIONS.iter().filter(|spec| spec.value.is_empty()) {
            while words.contains(spec.name)
                || (!spec.short.is_empty() && words.contains(spec.short))
            {
                (spec.set)(&mut args, OsString::new())?;
                args.given.push(spec);
            }
        }
        for word in words.finish() {
            let word = text(word)?;
            if word.starts_with('-') {
                let of_flag = |spec: &&Spec| word.split('=').next() == Some(spec.name);
                return Err(match OPTIONS.iter().find(of_flag) {
                    Some(flag) => format!("option {} takes no value", flag.name),
                    None => format!("unknown option '{}'", word.split('=').next().unwrap_or("")),
                });
            }
            if let Some(mode) = &args.mode {
                return Err(format!("unexpected argument '{word}' after '{mode}'"));
            }
            args.mode = Some(word);
        }
        Ok(args)
    }

    /// The first option given that `mode` has no use for.
    pub(super) fn misplaced(&self, mode: &str) -> Option<&'static str> {
        let of_use = |spec: &&Spec| spec.modes.is_empty() || spec.modes.contains(&mode);
        let other = self.given.iter().find(|spec| !of_use(spec));
        other.map(|spec| spec.name)
    }

    /// The root of default paths.
    pub(super) fn root(&self) -> Root {
        self.root.clone().map_or_else(Root::system, Root::at)
    }
}

/// What `--help` prints.
pub(super) fn usage() -> String {
    let mut out = String::from("usage: ctrl-exec-agent <mode> [options]\n\nmodes:\n");
    for (name, help) in MODES {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name:15}  {help}");
    }
    for (title, of_pairing) in [("options", false), ("options of request-pairing", true)] {
        let _ = writeln!(out, "\n{title}:");
        for spec in &OPTIONS {
            if spec.modes.contains(&"request-pairing") == of_pairing {
                let _ = writeln!(out, "  {:18}  {}", spec.shown(), spec.help);
            }
        }
    }
    out
}

impl Spec {
    fn shown(&self) -> String {
        match (self.short, self.value) {
            ("", "") => self.name.to_owned(),
            (short, "") => format!("{short}, {}", self.name),
            (_, value) => format!("{} {value}", self.name),
        }
    }
}

/// The arguments with every `--name=value` as two words, since `pico-args` separates them only in
/// text, and paths need not be text.
fn separated(all: &[OsString]) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::with_capacity(all.len());
    let mut is_value = false;
    for word in all {
        let name = |word: &str| {
            OPTIONS
                .iter()
                .any(|o| o.name == word && !o.value.is_empty())
        };
        let both = word.as_encoded_bytes();
        let at = both.iter().position(|byte| *byte == b'=').unwrap_or(0);
        let option = std::str::from_utf8(&both[..at]).unwrap_or_default();
        if !is_value && name(option) {
            words.push(option.into());
            words.push(OsStr::from_bytes(&both[at + 1..]).to_owned());
        } else {
            is_value = !is_value && word.to_str().is_some_and(name);
            words.push(word.clone());
        }
    }
    words
}

/// Takes an option and its value out of the arguments.
fn take_value(words: &mut Arguments, name: &'static str) -> Result<Option<OsString>, String> {
    let whole = |value: &OsStr| Ok::<_, Infallible>(value.to_owned());
    match words.opt_value_from_os_str(name, whole) {
        Ok(value) if value.as_ref().is_none_or(|value| !value.is_empty()) => Ok(value),
        Ok(_) | Err(Error::OptionWithoutAValue(_)) => Err(format!("option {name} needs a value")),
        Err(Error::NonUtf8Argument) => Err(format!("the value of {name} is not UTF-8")),
        Err(error) => Err(format!("option {name}: {error}")),
    }
}

fn text(word: OsString) -> Result<String, String> {
    let refused = |word: OsString| {
        format!(
            "argument '{}' is not UTF-8",
            Untrusted::bytes(word.as_encoded_bytes())
        )
    };
    word.into_string().map_err(refused)
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    std::path::absolute(&path).map_err(|error| format!("--root '{}': {error}", path.display()))
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("--port must be 1 to 65535, not '{text}'")),
    }
}

fn seconds(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("--timeout must be a number of seconds, not '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Args, String> {
        Args::parse(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_stand_anywhere_in_both_forms() {
        for line in [
            [
                "--config",
                "/c",
                "request-pairing",
                "--port=7",
                "--dispatcher",
                "d",
            ],
            [
                "request-pairing",
                "--dispatcher",
                "d",
                "--port=7",
                "--config",
                "/c",
            ],
        ] {
            let args = parse(&line).expect("valid");
            assert_eq!(args.mode.as_deref(), Some("request-pairing"));
            assert_eq!(args.config, Some("/c".into()));
            assert_eq!(args.pairing.port, Some(7));
            assert_eq!(args.pairing.dispatcher.as_deref(), Some("d"));
        }
    }

    #[test]
    fn faults_name_the_argument() {
        for (line, fault) in [
            (&["serve", "--nope"][..], "unknown option '--nope'"),
            (
                &["serve", "more"],
                "unexpected argument 'more' after 'serve'",
            ),
            (&["serve", "--config"], "option --config needs a value"),
            (&["serve", "--config="], "option --config needs a value"),
            (&["--background=1"], "option --background takes no value"),
            (&["--port", "0"], "--port must be 1 to 65535, not '0'"),
            (&["--port", "x"], "--port must be 1 to 65535, not 'x'"),
            (
                &["--timeout", "-1"],
                "--timeout must be a number of seconds, not '-1'",
            ),
            (&["-x"], "unknown option '-x'"),
            (&["--nope=3"], "unknown option '--nope'"),
            (&["--port"], "option --port needs a value"),
        ] {
            assert_eq!(parse(line).map(|_| ()), Err(fault.to_owned()));
        }
    }

    #[test]
    fn options_of_pairing_are_refused_elsewhere() {
        let args = parse(&["serve", "--timeout", "3"]).expect("parses");
        assert_eq!(args.misplaced("serve"), Some("--timeout"));
        assert_eq!(args.misplaced("request-pairing"), None);
        let args = parse(&["self-ping", "--port", "3"]).expect("parses");
        assert_eq!(args.misplaced("self-ping"), None);
        assert_eq!(args.misplaced("serve"), Some("--port"));
    }

    #[test]
    fn of_one_given_twice_the_last_counts_and_a_value_may_look_like_an_option() {
        let args = parse(&["--config", "/a", "serve", "--config=/b"]).expect("parses");
        assert_eq!(args.config, Some("/b".into()));
        let args = parse(&["request-pairing", "--dispatcher", "--background"]).expect("parses");
        assert_eq!(args.pairing.dispatcher.as_deref(), Some("--background"));
        assert!(!args.pairing.background);
    }

    #[test]
    fn words_that_are_not_utf8_are_refused_unless_they_are_paths() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(b"/a\xff".to_vec());
        let args = Args::parse(&["--config".into(), odd.clone()]).expect("a path");
        assert_eq!(args.config, Some(odd.clone().into()));
        let fault = Args::parse(&[odd]).expect_err("no mode");
        assert_eq!(fault, "argument '/a\\xff' is not UTF-8");
    }

    #[test]
    fn the_usage_names_every_mode_and_option_once() {
        let usage = usage();
        let words: Vec<&str> = usage.split_whitespace().collect();
        for (name, _) in MODES {
            let lines = usage
                .lines()
                .filter(|line| line.starts_with(&format!("  {name} ")));
            assert_eq!(lines.count(), 1, "{name}");
        }
        for spec in &OPTIONS {
            assert_eq!(
                words.iter().filter(|word| **word == spec.name).count(),
                1,
                "{}",
                spec.name
            );
        }
        assert!(usage.lines().all(|line| line.len() <= 80), "{usage}");
    }
}
