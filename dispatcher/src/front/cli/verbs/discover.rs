//! `discover` (dispatcher.md §9.3).

use super::ping::finish;
use super::run::Shown;
use crate::front::cli::args::Args;
use crate::front::cli::ask;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{ALL, EXCLUDE, HOSTS_FILE, TAGS};
use crate::front::cli::progress;
use crate::front::cli::{out, render};
use crate::model::{AppError, Kind};
use crate::tasks::{Choice, auth, discover};

/// Shows what agents offer, and caches their tags.
pub fn discover(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let chosen = [&ALL, &TAGS, &HOSTS_FILE].iter().any(|flag| args.has(flag));
    let words = if args.words.is_empty() && !chosen {
        let all = Choice {
            all: true,
            ..ask::choice(args, &[])?
        };
        dispatcher.select(&all).map_err(|error| match error.kind {
            Kind::NotFound if !args.has(&EXCLUDE) => {
                AppError::new(Kind::NotFound, "no agent is registered")
            }
            _ => error,
        })?
    } else {
        dispatcher.select(&ask::choice(args, &args.words)?)?
    };
    if ask::list(ctx, args, &words)? {
        return Ok(0);
    }
    let inquiry = ask::inquiry(args, words)?;
    let permit = auth::authorise(&dispatcher, &inquiry.hook_request("discovery"))?;
    let mut task = discover::start(&dispatcher, &inquiry, &permit, ask::limits(args)?)?;
    let shown = Shown::of(args);
    let mut results = progress::drive(&mut task, args, usize::MAX, |result| {
        shown.arrived(result, render::capabilities);
    })?;
    if shown.at_end(args, &mut results, None) {
        out::raw(
            &results
                .results
                .iter()
                .map(render::capabilities)
                .collect::<String>(),
        );
    }
    Ok(finish(args, &results))
}
