//! `running` and `cancel`: what goes on at the agents, and ending it.

use super::run::Shown;
use crate::front::cli::args::Args;
use crate::front::cli::ask;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{
    ALL, ALL_RUNS, HOSTS_FILE, JSON, JSON_LINES, PORT, QUIET, STRICT, TAGS,
};
use crate::front::cli::progress::{self, Results};
use crate::front::cli::{out, render};
use crate::model::{AppError, Kind, Outcome};
use crate::tasks::cancel::{self, CancelOrder};
use crate::tasks::{Choice, Dispatcher, auth, running};

/// Shows what agents run for this dispatcher.
pub fn running(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let named = [&ALL, &TAGS, &HOSTS_FILE].iter().any(|flag| args.has(flag));
    let all = args.words.is_empty() && !named;
    let choice = ask::choice(args, &args.words)?;
    let words = dispatcher.select(&Choice {
        all: choice.all || all,
        ..choice
    })?;
    if ask::list(ctx, args, &words)? {
        return Ok(0);
    }
    let inquiry = ask::inquiry(args, words)?;
    let permit = auth::authorise(&dispatcher, &inquiry.hook_request("running"))?;
    let mut task = running::start(&dispatcher, &inquiry, &permit, ask::limits(args)?)?;
    let shown = Shown::of(args);
    if shown == Shown::Streamed {
        out::raw(&render::running_head());
    }
    let mut results = progress::drive(&mut task, args, usize::MAX, |result| {
        shown.arrived(result, render::running);
    })?;
    if shown.at_end(args, &mut results, None) {
        let rows: String = results.results.iter().map(render::running).collect();
        out::raw(&format!("{}{rows}", render::running_head()));
    }
    let told = results
        .results
        .iter()
        .filter_map(|result| result.reply.runs.as_ref());
    let count: usize = told.map(Vec::len).sum();
    if shown != Shown::Json && shown != Shown::Lines && !args.has(&QUIET) {
        let hosts = results.results.len();
        out::error(format_args!("{count} run(s) on {hosts} host(s)"));
    }
    Ok(exit(args, &results))
}

/// Ends runs on agents.
pub fn cancel(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let (reqid, words) = match (args.has(&ALL_RUNS), &args.words[..]) {
        (true, words) => (None, words.to_vec()),
        (false, [reqid]) => (Some(reqid.clone()), open_hosts(&dispatcher, reqid)?),
        (false, [reqid, words @ ..]) => (Some(reqid.clone()), words.to_vec()),
        (false, []) => return Err(AppError::usage("no request id and no host given")),
    };
    let choice = ask::choice(args, &words)?;
    // `--all` is about runs here; hosts are named.
    let words = dispatcher.select(&Choice {
        all: false,
        ..choice
    })?;
    let inquiry = ask::inquiry(args, words)?;
    let order = CancelOrder {
        words: inquiry.words,
        port: args.number(&PORT),
        reqid,
        username: inquiry.username,
        token: inquiry.token,
        source_ip: inquiry.source_ip,
    };
    let permit = auth::authorise(&dispatcher, &order.hook_request())?;
    let mut task = cancel::start(&dispatcher, &order, &permit, ask::limits(args)?)?;
    let shown = Shown::of(args);
    let mut results = progress::drive(&mut task, args, usize::MAX, |result| {
        shown.arrived(result, render::cancelled);
    })?;
    if shown.at_end(args, &mut results, order.reqid.as_deref()) {
        out::raw(
            &results
                .results
                .iter()
                .map(render::cancelled)
                .collect::<String>(),
        );
    }
    Ok(exit(args, &results))
}

/// The hosts where a run has no known end.
fn open_hosts(dispatcher: &Dispatcher, reqid: &str) -> Result<Vec<String>, AppError> {
    let shown = out::clean(reqid);
    let Some(words) = cancel::hosts_of(dispatcher, reqid)? else {
        let mut message = format!("no record of run '{shown}'");
        if matches!(dispatcher.agents().load(reqid), Ok(Some(_))) {
            message.push_str(&format!(
                "; '{shown}' is an agent: 'ced running {shown}' shows what it runs, 'ced cancel \
                 {shown} --all' ends all of it"
            ));
        }
        return Err(AppError::new(Kind::NotFound, message));
    };
    if words.is_empty() {
        return Err(AppError::new(
            Kind::Ended,
            format!("run '{shown}' has ended on all its hosts"),
        ));
    }
    Ok(words)
}

/// 1 when a host did not do what was asked; with `--strict` it says how.
fn exit<T>(args: &Args, results: &Results<T>) -> Exit {
    if !args.has(&JSON) && !args.has(&JSON_LINES) && !args.has(&QUIET) {
        progress::summary(results);
    }
    if args.has(&STRICT) {
        return progress::strict_exit(results.outcomes());
    }
    Exit::from(results.interrupted || results.outcomes().any(|outcome| outcome != Outcome::Ok))
}
