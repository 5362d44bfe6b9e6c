//! `runs` and `show`: who ran what, where and when.

use super::follow::not_found;
use crate::fleet::select::glob;
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{BY, FAILED, HOST, JSON, SCRIPT, SINCE};
use crate::front::cli::{out, render};
use crate::model::{AppError, Origin, RunRecord};
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::fmt::Write;

/// Longest list of hosts or arguments in a line of the table, in characters.
const SHOWN: usize = 40;

/// Lists runs, the newest first. A record that cannot be read is told, and makes the exit status 1.
pub fn runs(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let since = match args.value(&SINCE) {
        Some(text) => Some(Utc::now().0.saturating_sub(age(text)?)),
        None => None,
    };
    let store = ctx.dispatcher()?.runs();
    let (mut found, mut exit) = (Vec::new(), 0);
    for id in store.ids()? {
        match store.load(&id) {
            Ok(Some(record)) => {
                if fits(args, since, &record) {
                    found.push((record.created, summary(&record)));
                }
            }
            // It was purged meanwhile.
            Ok(None) => {}
            Err(error) => {
                out::error(format_args!("Error: {error}"));
                exit = 1;
            }
        }
    }
    found.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    let found = found.into_iter().map(|(_, summary)| summary);
    if args.has(&JSON) {
        out::line(Json::list(found.map(|s| s.object)).into_string());
    } else {
        let mut text = row("REQID", "WHEN", "USER", "RESULT", "SCRIPT", "HOSTS");
        text.extend(found.map(|summary| summary.line));
        out::raw(&text);
    }
    Ok(exit)
}

/// Shows one record as it is.
pub fn show(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let Some(record) = ctx.dispatcher()?.runs().load(&args.words[0])? else {
        return Ok(not_found(args));
    };
    if args.has(&JSON) {
        let mut object = record.object();
        object.set("ok", Json::integer(1));
        out::line(object.render());
        return Ok(0);
    }
    let mut text = String::new();
    let by = record.by();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:<10} {}", out::clean(&value));
        }
    };
    line("When", record.created.map(|at| Utc(at).iso()));
    line("Ended", record.completed.map(|at| Utc(at).iso()));
    line("User", by.name().map(str::to_owned));
    line("Login uid", by.login_uid.map(|uid| uid.to_string()));
    // As JSON: where one argument ends and the next begins is to be seen.
    line(
        "Arguments",
        record.args().map(|args| Json::texts(args).into_string()),
    );
    out::raw(&text);
    out::raw(&render::record(&record));
    Ok(0)
}

struct Summary {
    object: Members,
    line: String,
}

fn fits(args: &Args, since: Option<i64>, record: &RunRecord) -> bool {
    let Origin {
        username,
        user,
        sudo_user,
        ..
    } = record.by();
    let by = |name: &str| {
        let names = [&username, &user, &sudo_user];
        names.iter().any(|known| known.as_deref() == Some(name))
    };
    let hosts = record.hosts();
    since.is_none_or(|since| record.created.is_some_and(|created| created >= since))
        && args
            .value(&HOST)
            .is_none_or(|host| hosts.iter().any(|name| glob(host, name)))
        && args
            .value(&SCRIPT)
            .is_none_or(|script| record.script == script)
        && args.value(&BY).is_none_or(by)
        && (!args.has(&FAILED) || record.has_failure())
}

fn summary(record: &RunRecord) -> Summary {
    let result = match (record.complete, record.has_failure()) {
        (_, true) => "failed",
        (true, false) => "ok",
        (false, false) => "open",
    };
    let by = record.by();
    let hosts = record.hosts();
    let mut object = Members::of([
        ("reqid", Json::text(&*record.reqid)),
        ("script", Json::text(&*record.script)),
        ("hosts", Json::texts(&hosts)),
        ("result", Json::text(result)),
    ]);
    object.set_integer("created", record.created);
    object.set_integer("completed", record.completed);
    object.set_text("user", by.name());
    if let Some(args) = record.args() {
        object.set("args", Json::texts(args));
    }
    let short = |text: String| match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    };
    let when = record.created.map(|at| Utc(at).iso()).unwrap_or_default();
    let line = row(
        &out::clean(&record.reqid),
        &when,
        &short(out::clean(by.name().unwrap_or("-"))),
        result,
        &out::clean(&record.script),
        &short(out::clean(&hosts.join(","))),
    );
    Summary { object, line }
}

fn row(reqid: &str, when: &str, user: &str, result: &str, script: &str, hosts: &str) -> String {
    format!("{reqid:<16}  {when:<20}  {user:<12}  {result:<6}  {script:<20}  {hosts}\n")
}

/// Seconds of `30s`, `10m`, `12h`, `7d`.
fn age(text: &str) -> Result<i64, AppError> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    units
        .iter()
        .find_map(|(unit, seconds)| {
            let digits = text.strip_suffix(unit)?;
            let number = digits
                .parse::<u32>()
                .ok()
                .filter(|_| !digits.starts_with('+'))?;
            Some(i64::from(number) * seconds)
        })
        .ok_or_else(|| {
            let shown = text.escape_debug();
            AppError::usage(format!(
                "option --since: '{shown}' is no age such as 30m, 12h or 7d"
            ))
        })
}
