//! Command-line parsing (dispatcher.md §2). As in the reference, options may stand anywhere before
//! `--`, case does not matter, and unique abbreviations and one dash work. Unlike it, what is no
//! option is an error and not a word (DEVIATE).

use super::args::Args;
use super::flags::{self, Flag, Takes};
use super::table::{self, Verb};
use std::ffi::OsString;

/// What the command line asks for.
pub enum Parsed {
    /// Carry out this verb.
    Verb(&'static Verb, Args),
    /// `--version`.
    Version,
    /// `--help`, perhaps of a verb.
    Help(Option<&'static Verb>),
}

impl std::fmt::Debug for Parsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verb(verb, args) => f.debug_tuple(verb.name).field(args).finish(),
            Self::Version => f.write_str("Version"),
            Self::Help(verb) => f.debug_tuple("Help").field(&verb.map(|v| v.name)).finish(),
        }
    }
}

/// Why a command line is refused.
#[derive(Debug, Eq, PartialEq)]
pub struct UsageError {
    /// What is wrong with it.
    pub message: String,
    /// Whether the whole usage text should follow.
    pub show_usage: bool,
}

/// Parses the arguments after the program name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let mut words = Vec::new();
    let mut rest: Option<Vec<String>> = None;
    let mut given: Vec<(&'static Flag, String)> = Vec::new();
    let flags = table::all_flags();
    let mut args = args.into_iter().enumerate().map(|(at, arg)| {
        arg.into_string().map_err(|arg| UsageError {
            message: format!(
                "argument {} ({}) is not valid UTF-8",
                at + 1,
                arg.to_string_lossy()
            ),
            show_usage: false,
        })
    });
    while let Some(arg) = args.next() {
        let arg = arg?;
        if let Some(rest) = &mut rest {
            rest.push(arg);
            continue;
        }
        if arg == "--" {
            rest = Some(Vec::new());
            continue;
        }
        let Some(option) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            words.push(arg);
            continue;
        };
        if option.is_empty() {
            words.push(arg);
            continue;
        }
        let (name, mut value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let flag = find(&flags, name)?;
        if flag.takes == Takes::Nothing {
            if value.is_some() {
                return Err(usage(format!("option --{} takes no value", flag.name)));
            }
        } else if value.is_none() {
            value = args.next().transpose()?;
        }
        let Some(value) = value.or_else(|| (flag.takes == Takes::Nothing).then(String::new)) else {
            return Err(usage(format!("option --{} needs a value", flag.name)));
        };
        check(flag, &value)?;
        given.push((flag, value));
    }
    finish(words, rest, given)
}

fn finish(
    words: Vec<String>,
    rest: Option<Vec<String>>,
    given: Vec<(&'static Flag, String)>,
) -> Result<Parsed, UsageError> {
    let has = |flag: &Flag| given.iter().any(|(given, _)| given.name == flag.name);
    if has(&flags::VERSION) {
        return Ok(Parsed::Version);
    }
    let mut words = words.into_iter();
    let Some(mode) = words.next() else {
        return if has(&flags::HELP) {
            Ok(Parsed::Help(None))
        } else {
            Err(UsageError {
                message: "no verb given".to_owned(),
                show_usage: true,
            })
        };
    };
    let Some(verb) = table::verb(&mode) else {
        return Err(UsageError {
            message: format!("unknown verb '{}'", mode.escape_debug()),
            show_usage: true,
        });
    };
    if has(&flags::HELP) {
        return Ok(Parsed::Help(Some(verb)));
    }
    if let Some((flag, _)) = given
        .iter()
        .find(|(flag, _)| !verb.all_flags().any(|known| known.name == flag.name))
    {
        return Err(usage(format!(
            "option --{} does not apply to '{}'",
            flag.name, verb.name
        )));
    }
    let mut words: Vec<String> = words.collect();
    let mut rest = rest;
    if verb.name != "run" {
        words.extend(rest.take().into_iter().flatten());
    }
    if words.len() < verb.words.0 {
        return Err(usage(format!(
            "'{}' needs more words. Usage: {}",
            verb.name,
            verb.synopsis()
        )));
    }
    if words.len() > verb.words.1 {
        return Err(usage(format!(
            "'{}' does not take '{}'. Usage: {}",
            verb.name,
            words[verb.words.1].escape_debug(),
            verb.synopsis()
        )));
    }
    let given = given
        .into_iter()
        .map(|(flag, value)| (flag.name, value))
        .collect();
    Ok(Parsed::Verb(verb, Args { given, words, rest }))
}

/// The flag meant by `name`: exact, or the only one it abbreviates; the reference's flags first.
fn find(flags: &[&'static Flag], name: &str) -> Result<&'static Flag, UsageError> {
    let name = name.to_ascii_lowercase();
    if let Some(flag) = flags.iter().find(|flag| flag.name == name) {
        return Ok(flag);
    }
    let fits = |reference: bool| -> Vec<&'static Flag> {
        flags
            .iter()
            .copied()
            .filter(|flag| flag.name.starts_with(&name) && (flag.reference || !reference))
            .collect()
    };
    let of_reference = fits(true);
    let candidates = if of_reference.is_empty() {
        fits(false)
    } else {
        of_reference
    };
    match candidates[..] {
        [flag] => Ok(flag),
        [] => Err(usage(format!("unknown option '--{}'", name.escape_debug()))),
        _ => {
            let names: Vec<String> = candidates.iter().map(|f| format!("--{}", f.name)).collect();
            Err(usage(format!(
                "option '--{}' is ambiguous: {}",
                name.escape_debug(),
                names.join(", ")
            )))
        }
    }
}

fn check(flag: &Flag, value: &str) -> Result<(), UsageError> {
    match flag.takes {
        Takes::Number(_, min, max)
            if !value
                .parse::<i64>()
                .is_ok_and(|number| (min..=max).contains(&number)) =>
        {
            return Err(usage(format!(
                "option --{}: '{}' is not a whole number from {min} to {max}",
                flag.name,
                value.escape_debug()
            )));
        }
        Takes::OneOf(words) if !words.contains(&value) => {
            return Err(usage(format!(
                "option --{}: '{}' is not one of: {}",
                flag.name,
                value.escape_debug(),
                words.join(", ")
            )));
        }
        _ => {}
    }
    Ok(())
}

fn usage(message: String) -> UsageError {
    UsageError {
        message,
        show_usage: false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::{CONFIG, JSON, PORT, TIMEOUT, TOKEN};
    use super::*;

    fn args(line: &[&str]) -> Result<(&'static str, Args), String> {
        match parse(line.iter().map(OsString::from)) {
            Ok(Parsed::Verb(verb, args)) => Ok((verb.name, args)),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn options_stand_anywhere_before_the_double_dash() {
        let (verb, args) = args(&[
            "--json", "run", "a", "b", "-port=9", "s", "--TOKEN", "T", "--", "--port", "5",
        ])
        .unwrap();
        assert_eq!(verb, "run");
        assert_eq!(args.words, ["a", "b", "s"]);
        assert_eq!(
            args.rest.as_deref(),
            Some(&["--port".to_owned(), "5".to_owned()][..])
        );
        assert_eq!(args.number(&PORT), Some(9_u16));
        assert_eq!(args.value(&TOKEN), Some("T"));
        assert!(args.has(&JSON));
        assert!(!args.has(&CONFIG));
    }

    #[test]
    fn abbreviations_are_those_of_the_reference() {
        assert_eq!(
            args(&["wait", "x", "--tim", "5"])
                .unwrap()
                .1
                .number(&TIMEOUT),
            Some(5_i64)
        );
        assert!(
            args(&["wait", "x", "--t", "5"])
                .unwrap_err()
                .contains("ambiguous")
        );
        // --json and ours, --json-lines: the reference's is meant.
        assert!(args(&["run", "a", "s", "--js"]).unwrap().1.has(&JSON));
        assert!(args(&["approve", "x", "--l", "ip"]).is_ok());
    }

    #[test]
    fn what_is_no_option_is_an_error() {
        for (line, word) in [
            (
                &["run", "a", "s", "--verbose"][..],
                "unknown option '--verbose'",
            ),
            (
                &["run", "a", "s", "--port", "abc"],
                "'abc' is not a whole number",
            ),
            (&["run", "a", "s", "--port", "0"], "from 1 to 65535"),
            (&["run", "a", "s", "--port"], "needs a value"),
            (&["run", "a", "s", "--json=1"], "takes no value"),
            (&["ping", "a", "--async"], "does not apply to 'ping'"),
            (
                &["approve", "x", "--lookup-by", "dns"],
                "not one of: ip, hostname",
            ),
            (&["frobnicate"], "unknown verb 'frobnicate'"),
            (&[], "no verb"),
            (&["unpair"], "needs more words"),
            (&["unpair", "a", "b"], "does not take 'b'"),
        ] {
            let error = args(line).unwrap_err();
            assert!(error.contains(word), "{line:?}: {error}");
        }
    }

    #[test]
    fn arguments_that_are_not_utf8_are_named() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![b'a', 0xff]);
        let error = parse(["run".into(), "h".into(), "s".into(), "--".into(), bad]).unwrap_err();
        assert!(error.message.contains("argument 5"), "{error:?}");
    }

    #[test]
    fn version_and_help_win() {
        assert!(matches!(parse(["--version".into()]), Ok(Parsed::Version)));
        assert!(matches!(parse(["--vers".into()]), Ok(Parsed::Version)));
        assert!(matches!(parse(["--help".into()]), Ok(Parsed::Help(None))));
        assert!(matches!(
            parse(["run".into(), "--help".into()]),
            Ok(Parsed::Help(Some(_)))
        ));
    }
}
