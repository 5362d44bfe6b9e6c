//! `status` and `wait` (dispatcher.md §3.2, §3.3).

use crate::fleet::EngineOptions;
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{JSON, PORT, TIMEOUT};
use crate::front::cli::{out, render};
use crate::model::{AppError, RunRecord};
use crate::tasks::{Limits, follow};
use ctrl_exec_protocol::json::{Json, Members};
use std::time::{Duration, Instant};

/// How long `wait` waits unless told otherwise.
const DEFAULT_WAIT: u64 = 300;
/// How long a connection is kept between two questions.
const KEEP: Duration = Duration::from_secs(30);
/// How long after its time a question of `wait` that is under way may still be answered.
const GRACE: Duration = Duration::from_secs(1);

/// Shows the state of a run.
pub fn status(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let reqid = &args.words[0];
    let looked = follow::look(&dispatcher, reqid, args.number(&PORT), Limits::default())?;
    Ok(match looked {
        Some(record) => {
            show(args, &record);
            0
        }
        None => not_found(args),
    })
}

/// Waits until a run is complete.
pub fn wait(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let limit = Duration::from_secs(args.number(&TIMEOUT).unwrap_or(DEFAULT_WAIT));
    let deadline = Instant::now() + limit;
    let dispatcher = ctx.dispatcher_that(EngineOptions {
        keep: Some(KEEP),
        ..EngineOptions::default()
    })?;
    let (mut looks, mut pace) = (0, None);
    loop {
        let limits = Limits {
            // An agent that never comes to an end must not hold us beyond our own time.
            deadline: Some(deadline + GRACE),
            resumption: true,
            ..Limits::default()
        };
        let looked = follow::look(&dispatcher, &args.words[0], args.number(&PORT), limits)?;
        let Some(record) = looked else {
            return Ok(not_found(args));
        };
        if record.complete {
            show(args, &record);
            // Of a sync record the results count; the reference dies there.
            return Ok(u8::from(record.has_failure()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            show(args, &record);
            return Ok(2);
        }
        let pace = *pace.get_or_insert_with(|| follow::Pace::of(&dispatcher, &record));
        std::thread::sleep(pace.pause(looks).min(left));
        looks += 1;
    }
}

fn show(args: &Args, record: &RunRecord) {
    if args.has(&JSON) {
        let mut record = record.object();
        // As the reference shows it; `show` has the rest.
        record.remove("args");
        record.remove("by");
        record.set("ok", Json::integer(1));
        out::line(record.render());
    } else {
        out::raw(&render::record(record));
    }
}

pub(super) fn not_found(args: &Args) -> Exit {
    let reqid = &args.words[0];
    if args.has(&JSON) {
        out::line(
            Members::of([
                ("ok", Json::integer(0)),
                ("error", Json::text("not found")),
                ("reqid", Json::text(reqid.as_str())),
            ])
            .render(),
        );
    } else {
        out::error(format_args!("Request '{}' not found", out::clean(reqid)));
    }
    1
}
