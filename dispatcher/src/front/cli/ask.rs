//! What the command line asks for, in the terms of tasks.

use super::args::Args;
use super::ctx::Ctx;
use super::flags::{
    ACCEPT_NAME, ALL, BATCH, EXCLUDE, FAILED_OF, Flag, HOSTS_FILE, JSON, LIST, MAX_FAILURES,
    PARALLEL, PORT, STDIN, TAGS, TIME_LIMIT, TIMEOUT, TOKEN, USERNAME, WITH_UNKNOWN,
};
use super::{hosts, out};
use crate::fleet::Target;
use crate::fleet::address;
use crate::fleet::select::TagFilter;
use crate::model::{AppError, Origin};
use crate::tasks::{Choice, Inquiry, Limits, Portion};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::wire::messages::MAX_INPUT;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

/// Longest time limit of a run, in seconds.
const MAX_TIME_LIMIT: u32 = 30 * 86_400;

/// Where orders of a command line come from.
const HERE: &str = "127.0.0.1";

/// The hosts meant by words and selection flags. Flags that are not the verb's are absent.
pub fn choice(args: &Args, words: &[String]) -> Result<Choice, AppError> {
    let mut input = false;
    let mut meant = hosts::read(words.iter().map(String::as_str), &mut input)?;
    for path in args.values(&HOSTS_FILE) {
        meant.extend(hosts::listed(path, &mut input)?);
    }
    Ok(Choice {
        words: meant,
        exclude: hosts::read(args.values(&EXCLUDE), &mut input)?,
        all: args.has(&ALL),
        tags: tags(args)?,
        failed_of: args.value(&FAILED_OF).map(str::to_owned),
        with_unknown: args.has(&WITH_UNKNOWN),
    })
}

/// `--tags`.
pub fn tags(args: &Args) -> Result<Option<TagFilter>, AppError> {
    args.value(&TAGS)
        .map(TagFilter::parse)
        .transpose()
        .map_err(AppError::usage)
}

/// A question to these hosts.
pub fn inquiry(args: &Args, words: Vec<String>) -> Result<Inquiry, AppError> {
    let (username, token) = credentials(args)?;
    Ok(Inquiry {
        words,
        port: args.number(&PORT),
        username,
        token,
        source_ip: HERE.to_owned(),
    })
}

/// `--parallel`, `--batch`, `--max-failures` and `--timeout`.
pub fn limits(args: &Args) -> Result<Limits, AppError> {
    let portion = |flag: &'static Flag| match args.value(flag) {
        None => Ok(None),
        Some(text) => Portion::parse(text).map(Some).ok_or_else(|| {
            AppError::usage(format!(
                "option --{}: '{}' is neither a number from 1 nor a percentage from 1% to 100%",
                flag.name,
                text.escape_debug()
            ))
        }),
    };
    Ok(Limits {
        parallel: args.number(&PARALLEL),
        batch: portion(&BATCH)?,
        max_failures: portion(&MAX_FAILURES)?,
        timeout: args.number(&TIMEOUT).map(Duration::from_secs),
        any_name: args.has(&ACCEPT_NAME),
        ..Limits::default()
    })
}

/// `--time-limit`, in seconds.
pub fn time_limit(args: &Args) -> Result<Option<u32>, AppError> {
    let Some(text) = args.value(&TIME_LIMIT) else {
        return Ok(None);
    };
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u32>().ok().filter(|_| plain);
    let limit = number
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| (1..=MAX_TIME_LIMIT).contains(seconds));
    limit.map(Some).ok_or_else(|| {
        AppError::usage(format!(
            "option --time-limit: '{}' is no time from 1s to 30d, such as 30s, 10m or 2h",
            text.escape_debug()
        ))
    })
}

/// Standard input serves one purpose only.
///
/// # Errors
/// It is to be a list of hosts and the scripts' input.
pub fn check_input(args: &Args) -> Result<(), AppError> {
    if !args.has(&STDIN) {
        return Ok(());
    }
    let lists = args.values(&HOSTS_FILE).chain(args.values(&EXCLUDE));
    if lists
        .chain(args.words.iter().map(String::as_str))
        .any(|word| word == "-")
    {
        return Err(AppError::usage(
            "standard input is a list of hosts (-) or the scripts' input (--stdin), not both",
        ));
    }
    Ok(())
}

/// `--stdin`: what the scripts are to read.
pub fn input(args: &Args) -> Result<Option<Vec<u8>>, AppError> {
    if !args.has(&STDIN) {
        return Ok(None);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        out::error("Reading the scripts' input; Ctrl-D ends it.");
    }
    let mut bytes = Vec::new();
    stdin
        .lock()
        .take(MAX_INPUT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| AppError::system(format!("cannot read standard input: {error}")))?;
    if bytes.len() > MAX_INPUT {
        return Err(AppError::usage(format!(
            "standard input has more than {MAX_INPUT} bytes, which is the most that scripts can be \
             given; nothing ran"
        )));
    }
    Ok(Some(bytes))
}

/// Who asks, for the hook and for agents: `--username`, else `$USER`; `--token`, else
/// `$ENVEXEC_TOKEN`.
pub fn credentials(args: &Args) -> Result<(String, String), AppError> {
    let or_env = |flag, variable: &str| match args.value(flag) {
        Some(text) => Ok(text.to_owned()),
        None => match std::env::var(variable) {
            Ok(text) => Ok(text),
            Err(std::env::VarError::NotPresent) => Ok(String::new()),
            Err(std::env::VarError::NotUnicode(_)) => Err(AppError::usage(format!(
                "the environment variable {variable} is not valid UTF-8"
            ))),
        },
    };
    Ok((or_env(&USERNAME, "USER")?, or_env(&TOKEN, "ENVEXEC_TOKEN")?))
}

/// Who gives the order, for its record.
pub fn origin(username: &str) -> Origin {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    // All ones: nobody has logged in, as for what a timer starts.
    let login_uid = Bounded::new(32)
        .any_kind()
        .text(Path::new("/proc/self/loginuid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|uid| *uid != u32::MAX);
    Origin {
        username: Some(username.to_owned()).filter(|name| !name.is_empty()),
        user: variable("USER"),
        sudo_user: variable("SUDO_USER"),
        login_uid,
    }
}

/// `--list`: shows who would be reached. Returns whether that was asked for.
pub fn list(ctx: &Ctx, args: &Args, words: &[String]) -> Result<bool, AppError> {
    if !args.has(&LIST) {
        return Ok(false);
    }
    let targets: Vec<Target> = address::resolve(&ctx.registry(), words, args.number(&PORT))?;
    if args.has(&JSON) {
        let hosts = targets.iter().map(|target| {
            Members::of([
                ("host", Json::text(&*target.name)),
                ("address", Json::text(target.address())),
                ("port", Json::integer(i64::from(target.port()))),
            ])
        });
        out::line(Json::list(hosts).into_string());
    } else {
        let mut text = String::new();
        for target in &targets {
            text.push_str(&format!(
                "{:<30}  {}:{}\n",
                target.name,
                out::clean(target.address()),
                target.port()
            ));
        }
        out::raw(&text);
        out::error(format_args!("{} host(s)", targets.len()));
    }
    Ok(true)
}
