//! `ping` (dispatcher.md §3.4, §9.2).

use super::run::Shown;
use crate::front::cli::args::Args;
use crate::front::cli::ask;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{JSON, JSON_LINES, QUIET, STRICT};
use crate::front::cli::progress::{self, Results};
use crate::front::cli::{out, render};
use crate::model::AppError;
use crate::tasks::{auth, handover, ping};

/// Tests mutual TLS with agents.
pub fn ping(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let words = dispatcher.select(&ask::choice(args, &args.words)?)?;
    if ask::list(ctx, args, &words)? {
        return Ok(0);
    }
    let inquiry = ask::inquiry(args, words)?;
    let permit = auth::authorise(&dispatcher, &inquiry.hook_request("ping"))?;
    let mut task = ping::start(&dispatcher, &inquiry, &permit, ask::limits(args)?)?;
    let shown = Shown::of(args);
    if shown == Shown::Streamed {
        out::raw(&render::ping_head());
    }
    let mut results = progress::drive(&mut task, args, usize::MAX, |result| {
        shown.arrived(result, render::ping_result);
    })?;
    if let Err(error) = handover::after_ping(&dispatcher, task) {
        // The pings were answered all the same.
        out::error(format_args!("Warning: {error}"));
    }
    if shown.at_end(args, &mut results, None) {
        let rows: String = results.results.iter().map(render::ping_result).collect();
        out::raw(&format!("{}{rows}", render::ping_head()));
    }
    Ok(finish(args, &results))
}

/// Summary and exit status of what only asks.
pub fn finish<T>(args: &Args, results: &Results<T>) -> Exit {
    if !args.has(&JSON) && !args.has(&JSON_LINES) && !args.has(&QUIET) {
        progress::summary(results);
    }
    if results.interrupted {
        1
    } else if args.has(&STRICT) {
        progress::strict_exit(results.outcomes())
    } else {
        0
    }
}
