//! `run` (dispatcher.md §3.1).

use crate::fleet::hostlist;
use crate::front::cli::args::Args;
use crate::front::cli::ask;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{
    ALL, ASYNC, DESPITE_UNKNOWN, FAILED_OF, FOLD, FOLLOW, HOSTS_FILE, JSON, JSON_LINES, ON_HANGUP,
    OUTPUT_DIR, PORT, PREFIX, QUIET, SORT, STRICT, TAGS,
};
use crate::front::cli::output_dir::OutputDir;
use crate::front::cli::progress::{self, Results};
use crate::front::cli::stops::{OnHangup, Stops};
use crate::front::cli::{out, render};
use crate::model::host_word;
use crate::model::{AppError, Holder, HostResult, Kind, Reply, RunEnd, Submission, Submitted};
use crate::tasks::auth;
use crate::tasks::cancel::{self, CancelOrder};
use crate::tasks::run::{self, RunOrder};
use crate::tasks::{Dispatcher, Event, Inquiry, Task, ping, running};
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::names;
use std::cell::Cell;
use std::time::Duration;

/// How long one look at pings under way lasts.
const LOOK: Duration = Duration::from_secs(1);

/// Most output kept for folding and sorting what was printed already.
const MAX_KEPT: usize = 16 << 20;

/// Most output held until the end for `--json`, `--sort` and `--fold`, all hosts together. JSON of it
/// takes three times as much for a moment.
const MAX_HELD: usize = 128 << 20;

/// Runs a script on agents.
pub fn run(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let selecting = [&ALL, &TAGS, &FAILED_OF, &HOSTS_FILE];
    let selected = selecting.iter().any(|flag| args.has(flag));
    let Some((script, hosts)) = args.words.split_last() else {
        return Err(AppError::usage("no script given"));
    };
    if hosts.is_empty() && !selected {
        return Err(AppError::usage(
            "run needs at least one host and a script: run <host>... <script> [-- <arg>...]",
        ));
    }
    ask::check_input(args)?;
    let dispatcher = ctx.dispatcher()?;
    let hint = |error| script_among_hosts(&dispatcher, args, error);
    let words = ask::choice(args, hosts)
        .and_then(|choice| dispatcher.select(&choice))
        .map_err(hint)?;
    if ask::list(ctx, args, &words).map_err(hint)? {
        return Ok(0);
    }
    check_output(args)?;
    let dir = args.value(&OUTPUT_DIR).map(OutputDir::open).transpose()?;
    let inquiry = ask::inquiry(args, words)?;
    let order = RunOrder {
        words: inquiry.words,
        port: args.number(&PORT),
        script: script.clone(),
        args: args.rest.clone().unwrap_or_default(),
        time_limit: ask::time_limit(args)?,
        despite_unknown: args
            .values(&DESPITE_UNKNOWN)
            .flat_map(|ids| ids.split(','))
            .map(str::to_owned)
            .collect(),
        by: ask::origin(&inquiry.username),
        username: inquiry.username,
        token: inquiry.token,
        source_ip: inquiry.source_ip,
        ..RunOrder::default()
    };
    let limits = ask::limits(args)?;
    let order = RunOrder {
        follow: args.has(&FOLLOW),
        input: ask::input(args)?,
        ..order
    };
    let most = progress::max_failures(&limits, order.words.len());
    let permit = auth::authorise(&dispatcher, &order.hook_request())?;
    learn(&dispatcher, &order, &permit, args).map_err(hint)?;
    if args.has(&ASYNC) {
        return submit(&dispatcher, args, order, &permit, most).map_err(hint);
    }
    let on_hangup = match args.value(&ON_HANGUP) {
        Some("cancel") => OnHangup::Cancel,
        _ => OnHangup::Leave,
    };
    // Known when the run has begun; signals are looked at from before that on.
    let reqid = Cell::new(None);
    let words = order.words.clone();
    let mut stops = Stops::of_runs(on_hangup, |names: &[String]| {
        let id = reqid.take();
        reqid.set(id.clone());
        let order = cancel_order(args, &words, names, id);
        end_runs(&dispatcher, args, order, &permit);
    })?;
    let mut task = begin(&dispatcher, args, order, &permit, |order| {
        run::start(&dispatcher, order, &permit, ask::limits(args)?)
    })
    .map_err(hint)?;
    reqid.set(Some(task.reqid().to_owned()));
    let shown = Shown::of(args);
    let (mut kept, mut held, mut told) = (0, 0, false);
    let follow = args.has(&FOLLOW);
    let prefix = args.has(&PREFIX) && !follow;
    let mut results = progress::drive_with(&mut task, args, most, &mut stops, |result| {
        if let Some(dir) = &dir {
            dir.keep(result);
            if !matches!(shown, Shown::Lines | Shown::Json) {
                result.reply.drop_output();
            }
        }
        let streamed = shown == Shown::Streamed;
        if follow && streamed {
            show_followed(result);
        } else if prefix && streamed {
            show_prefixed(result);
        }
        if (prefix || follow) && streamed || shown.arrived(result, render::run_result) {
            // What was printed is not needed again; the record has it.
            kept += result.reply.output_size();
            if kept > MAX_KEPT {
                result.reply.drop_output();
            }
            return;
        }
        let size = result.reply.output_size();
        if held + size > MAX_HELD {
            if !told {
                out::error(format_args!(
                    "Warning: the outputs of this run are more than {} MiB; what is beyond is left \
                     out. --json-lines and plain text show all of it.",
                    MAX_HELD >> 20
                ));
                told = true;
            }
            result.reply.leave_output_out();
        } else {
            held += size;
        }
    })?;
    if shown.at_end(args, &mut results, None) {
        if prefix {
            results.results.iter().for_each(show_prefixed);
        } else if args.has(&FOLD) {
            out::raw(&render::folded(&results.results));
        } else {
            let texts = results.results.iter().map(render::run_result);
            out::raw(&texts.collect::<String>());
        }
    }
    end(args, &results);
    if let Some(fault) = dir.and_then(OutputDir::fault) {
        return Err(fault);
    }
    let good = |result: &HostResult<RunEnd>| result.reply.exit == Some(0);
    Ok(if args.has(&STRICT) {
        progress::strict_exit(results.outcomes())
    } else {
        u8::from(!results.results.iter().all(good))
    })
}

/// Pings the agents of which it is not known whether they can do what is asked of them. What they
/// tell is kept; one that does not answer is told of as the run is refused to it.
fn learn(
    dispatcher: &Dispatcher,
    order: &RunOrder,
    permit: &auth::Permit,
    args: &Args,
) -> Result<(), AppError> {
    let words = run::must_ask(dispatcher, order)?;
    if words.is_empty() {
        return Ok(());
    }
    let inquiry = Inquiry {
        words,
        port: order.port,
        ..Inquiry::default()
    };
    let mut task = ping::start(dispatcher, &inquiry, permit, ask::limits(args)?)?;
    while task.left() > 0 {
        task.next(LOOK);
    }
    Ok(())
}

/// Begins a run. Where locks are in the way that runs have left whose end is not known, their
/// agents are asked, and it is tried once more.
fn begin<K>(
    dispatcher: &Dispatcher,
    args: &Args,
    order: RunOrder,
    permit: &auth::Permit,
    mut start: impl FnMut(RunOrder) -> Result<K, AppError>,
) -> Result<K, AppError> {
    let again = order.clone();
    let error = match start(order) {
        Err(error) if error.kind == Kind::Locked => error,
        other => return other,
    };
    let left = |holder: &Holder| !holder.live && holder.note.is_some();
    if !error.holders.iter().all(left) {
        return Err(error);
    }
    let held: Vec<&str> = error.holders.iter().map(|one| &*one.host).collect();
    let of_held = |word: &&String| {
        let bare = host_word::split(word).0;
        held.iter().any(|held| host_word::split(held).0 == bare)
    };
    let inquiry = Inquiry {
        words: again.words.iter().filter(of_held).cloned().collect(),
        port: again.port,
        ..Inquiry::default()
    };
    let mut asked = running::start(dispatcher, &inquiry, permit, ask::limits(args)?)?;
    while asked.left() > 0 {
        asked.next(LOOK);
    }
    start(again)
}

/// The order to end a run on hosts that are given by registry name.
fn cancel_order(
    args: &Args,
    words: &[String],
    names: &[String],
    reqid: Option<String>,
) -> CancelOrder {
    let meant = |word: &&String| names.iter().any(|name| host_word::split(word).0 == name);
    CancelOrder {
        words: words.iter().filter(meant).cloned().collect(),
        port: args.number(&PORT),
        reqid,
        ..CancelOrder::default()
    }
}

/// Ends a run on the agents, and says of which that was not done.
fn end_runs(dispatcher: &Dispatcher, args: &Args, order: CancelOrder, permit: &auth::Permit) {
    // Without an id everything there would be meant.
    if order.reqid.is_none() || order.words.is_empty() {
        return;
    }
    let started =
        ask::limits(args).and_then(|limits| cancel::start(dispatcher, &order, permit, limits));
    let mut task = match started {
        Ok(task) => task,
        Err(error) => {
            out::error(format_args!("Error: not cancelled: {}", error.message));
            return;
        }
    };
    let mut ended = 0;
    while task.left() > 0 {
        let Some(Event::Ended(result)) = task.next(LOOK) else {
            continue;
        };
        match result.error() {
            None => ended += 1,
            Some(error) => out::error(format_args!(
                "{}: not cancelled: {}",
                out::clean(&result.host),
                out::clean(error)
            )),
        }
    }
    out::error(format_args!("{ended} told to end; their results follow."));
}

/// Ways of showing output that exclude each other.
fn check_output(args: &Args) -> Result<(), AppError> {
    for (one, others) in [
        (&PREFIX, &[&FOLD, &JSON, &JSON_LINES, &ASYNC][..]),
        (&FOLLOW, &[&FOLD, &JSON, &SORT, &ASYNC]),
        (&OUTPUT_DIR, &[&FOLD, &PREFIX, &ASYNC]),
        (&ON_HANGUP, &[&ASYNC]),
    ] {
        if let Some(other) = others.iter().find(|other| args.has(one) && args.has(other)) {
            return Err(AppError::usage(format!(
                "--{} and --{} exclude each other",
                one.name, other.name
            )));
        }
    }
    Ok(())
}

/// What is to be shown of a result whose output was, as far as it came.
fn show_followed(result: &mut HostResult<RunEnd>) {
    let reply = &mut result.reply;
    let ended = reply.exit.is_some_and(|exit| exit >= 0);
    let late = reply.told.is_none() && ended && reply.output_size() > 0;
    let (stdout, stderr) = reply.told.unwrap_or_default();
    let rest = |text: &Option<String>, told: usize| {
        text.as_deref()
            .and_then(|text| text.get(told..))
            .map(str::to_owned)
    };
    let untold = RunEnd {
        stdout: rest(&reply.stdout, stdout),
        stderr: rest(&reply.stderr, stderr),
        // What is missing was said where it is.
        stdout_truncated: reply.stdout_truncated.filter(|_| stdout == 0),
        stderr_truncated: reply.stderr_truncated.filter(|_| stderr == 0),
        ..reply.clone()
    };
    let whole = std::mem::replace(reply, untold);
    show_prefixed(result);
    result.reply = whole;
    if late {
        let host = out::clean(&result.host);
        out::error(format_args!(
            "{host}: NOTE: its output came at the end: this agent does not send it before"
        ));
    }
}

fn show_prefixed(result: &HostResult<RunEnd>) {
    let (stdout, stderr) = render::prefixed(result);
    out::raw(&stdout);
    out::error_raw(&stderr);
}

/// `run r1 hello arg` takes `hello` for a host. Where the words look like that, the error says how
/// arguments are given.
fn script_among_hosts(dispatcher: &Dispatcher, args: &Args, error: AppError) -> AppError {
    let blamed = matches!(error.kind, Kind::NotFound | Kind::Usage);
    let registry = dispatcher.agents();
    let is_host = |word: &str| match hostlist::expand(word, hostlist::MAX_WORDS) {
        // Patterns are not looked at: no script is called like that.
        Ok(names) => names.iter().all(|name| {
            let name = host_word::split(name).0;
            name.contains(['*', '?', '[', '@'])
                || name == "-"
                || !matches!(registry.load(name), Ok(None))
        }),
        Err(_) => false,
    };
    let words = &args.words;
    let script = words.iter().position(|word| !is_host(word));
    match script {
        Some(at)
            if blamed
                && args.rest.is_none()
                && at > 0
                && at + 1 < words.len()
                && names::is_script_name(&words[at]) =>
        {
            let shown = |words: &[String]| out::clean(&words.join(" "));
            let message = format!(
                "{}\nIf '{}' is the script, its arguments go after --: run {} -- {}",
                error.message,
                words[at],
                shown(&words[..=at]),
                shown(&words[at + 1..])
            );
            AppError { message, ..error }
        }
        _ => error,
    }
}

fn submit(
    dispatcher: &Dispatcher,
    args: &Args,
    order: RunOrder,
    permit: &auth::Permit,
    most: usize,
) -> Result<Exit, AppError> {
    let mut task = begin(dispatcher, args, order, permit, |order| {
        run::submit(dispatcher, order, permit, ask::limits(args)?)
    })?;
    let reqid = task.reqid().to_owned();
    let shown = Shown::of(args);
    let head = format!("Submitted async run  req:{reqid}");
    if shown == Shown::Streamed {
        out::line(&head);
    }
    let mut results = progress::drive(&mut task, args, most, |result| {
        shown.arrived(result, render::async_result);
    })?;
    if shown.at_end(args, &mut results, Some(&reqid)) {
        out::line(&head);
        out::raw(
            &results
                .results
                .iter()
                .map(render::async_result)
                .collect::<String>(),
        );
    }
    if matches!(shown, Shown::Streamed | Shown::AtEnd) {
        out::line(format_args!(
            "Check progress with: ctrl-exec-dispatcher status {reqid}"
        ));
    }
    end(args, &results);
    let accepted = |result: &HostResult<Submission>| result.reply.submitted == Submitted::Accepted;
    Ok(if args.has(&STRICT) {
        progress::strict_exit(results.outcomes())
    } else {
        u8::from(!results.results.iter().any(accepted))
    })
}

fn end<T>(args: &Args, results: &Results<T>) {
    if !args.has(&JSON) && !args.has(&JSON_LINES) && !args.has(&QUIET) {
        progress::summary(results);
    }
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    /// As they arrive, as text.
    Streamed,
    /// As they arrive, each as a line of JSON.
    Lines,
    /// At the end, as text.
    AtEnd,
    /// At the end, as one object.
    Json,
}

impl Shown {
    /// What the flags say.
    pub fn of(args: &Args) -> Self {
        if args.has(&JSON_LINES) {
            Self::Lines
        } else if args.has(&JSON) {
            Self::Json
        } else if args.has(&SORT) || args.has(&FOLD) {
            Self::AtEnd
        } else {
            Self::Streamed
        }
    }

    /// Shows a result that has arrived, if that is the way; says whether it did.
    pub fn arrived<T: Reply>(
        self,
        result: &HostResult<T>,
        text: impl Fn(&HostResult<T>) -> String,
    ) -> bool {
        match self {
            Self::Lines => out::line(result.to_json()),
            Self::Streamed => out::raw(&text(result)),
            Self::AtEnd | Self::Json => return false,
        }
        true
    }

    /// Sorts results, and shows them where they are one object. Says whether they are still to be
    /// shown as text.
    pub fn at_end<T: Reply>(
        self,
        args: &Args,
        results: &mut Results<T>,
        reqid: Option<&str>,
    ) -> bool {
        if args.has(&SORT) {
            results.sort();
        }
        if self == Self::Json {
            let mut object = Members::of([
                ("ok", Json::integer(1)),
                ("results", HostResult::array(&results.results)),
            ]);
            object.set_text("reqid", reqid);
            out::line(object.render());
        }
        self == Self::AtEnd
    }
}
