//! Reading the arguments: options may stand anywhere, as `--name value` or `--name=value`.

use crate::pairing::Options;
use ctrl_exec_host::Root;
use std::ffi::OsString;
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
    pub(super) pairing: Options,
}

impl Args {
    /// Reads the arguments; an error is one line that names the fault.
    pub(super) fn parse(all: &[OsString]) -> Result<Args, String> {
        let mut args = Args::default();
        let mut rest = all.iter();
        while let Some(word) = rest.next() {
            let shown = word.to_string_lossy();
            let Some(text) = word.to_str() else {
                return Err(format!("argument '{shown}' is not UTF-8"));
            };
            let (name, inline) = match text.split_once('=') {
                Some((name, value)) if name.starts_with("--") => {
                    (name, Some(OsString::from(value)))
                }
                _ => (text, None),
            };
            if !name.starts_with('-') {
                if let Some(mode) = &args.mode {
                    return Err(format!("unexpected argument '{text}' after '{mode}'"));
                }
                args.mode = Some(text.to_owned());
                continue;
            }
            let flag = match name {
                "--background" => Some(&mut args.pairing.background),
                "--version" | "-V" => Some(&mut args.version),
                "--help" | "-h" => Some(&mut args.help),
                _ => None,
            };
            if let Some(flag) = flag {
                if inline.is_some() {
                    return Err(format!("option {name} takes no value"));
                }
                *flag = true;
                continue;
            }
            if !VALUED.contains(&name) {
                return Err(format!("unknown option '{name}'"));
            }
            let value = inline.or_else(|| rest.next().cloned());
            let Some(value) = value.filter(|value| !value.is_empty()) else {
                return Err(format!("option {name} needs a value"));
            };
            args.set(name, value)?;
        }
        Ok(args)
    }

    /// The first option given that `mode` has no use for.
    pub(super) fn misplaced(&self, mode: &str) -> Option<&'static str> {
        let pairing = matches!(mode, "request-pairing" | crate::pairing::WAIT);
        let p = &self.pairing;
        let given = [
            ("--dispatcher", p.dispatcher.is_some() && !pairing),
            ("--background", p.background && !pairing),
            ("--timeout", p.timeout.is_some() && !pairing),
            ("--lookup-by", p.lookup_by.is_some() && !pairing),
            ("--key-type", p.key_type.is_some() && !pairing),
            ("--ca", p.ca.is_some() && !pairing),
            (
                "--port",
                p.port.is_some() && !pairing && mode != "self-ping",
            ),
        ];
        given
            .into_iter()
            .find(|(_, misplaced)| *misplaced)
            .map(|(name, _)| name)
    }

    /// The root of default paths.
    pub(super) fn root(&self) -> Root {
        self.root.clone().map_or_else(Root::system, Root::at)
    }

    fn set(&mut self, name: &str, value: OsString) -> Result<(), String> {
        let path = PathBuf::from(&value);
        let text = value.to_string_lossy().into_owned();
        match name {
            "--config" => self.config = Some(path),
            "--allowlist" => self.allowlist = Some(path),
            "--root" => self.root = Some(absolute(path)?),
            "--dispatcher" => self.pairing.dispatcher = Some(text),
            "--lookup-by" => self.pairing.lookup_by = Some(text),
            "--key-type" => self.pairing.key_type = Some(text),
            "--ca" => self.pairing.ca = Some(path),
            "--port" => self.pairing.port = Some(port(&text)?),
            _ => self.pairing.timeout = Some(number(name, &text)?),
        }
        Ok(())
    }
}

const VALUED: [&str; 9] = [
    "--config",
    "--allowlist",
    "--root",
    "--dispatcher",
    "--lookup-by",
    "--key-type",
    "--ca",
    "--port",
    "--timeout",
];

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    std::path::absolute(&path).map_err(|error| format!("--root '{}': {error}", path.display()))
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("--port must be 1 to 65535, not '{text}'")),
    }
}

fn number(name: &str, text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{name} must be a number of seconds, not '{text}'"))
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
}
