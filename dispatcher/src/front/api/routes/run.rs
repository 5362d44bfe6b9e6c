//! `POST /run` (api.md §6.4).

use super::events;
use crate::front::api::app::App;
use crate::front::api::call::{Call, hosts, text};
use crate::front::api::reply::{JSON, Reply};
use crate::front::api::step::Step;
use crate::front::api::tidy::Tidy;
use crate::model::{AppError, Origin};
use crate::tasks::auth::Permit;
use crate::tasks::run::{self, RunOrder};
use crate::tasks::{Event, Task};
use ctrl_exec_protocol::hook::Submitter;
use ctrl_exec_protocol::json::{Json, Members, Raw, Scalar};
use ctrl_exec_protocol::names;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Output in one answer; hosts beyond it are told without theirs.
const MAX_OUTPUT: usize = 64 << 20;
/// Every call ends by its own limits.
const LONG: Duration = Duration::from_secs(3600);

/// Reads the body, asks the hook, runs.
pub fn run(call: Call) -> Step {
    let (order, run_async) = match read(&call) {
        Ok(read) => read,
        Err(reply) => return Step::Answer(reply),
    };
    let request = order.hook_request();
    let events = call.wants_events && !run_async;
    Step::ask(&call.app, request, move |permit| {
        if events {
            return Step::Work(Box::new(move |app| stream(app, order, &permit)));
        }
        Step::work(move |app| {
            if run_async {
                submit(app, order, &permit)
            } else {
                wait(app, order, &permit)
            }
        })
    })
}

/// Checks in the order of the reference: which fault is told first is part of the interface.
fn read(call: &Call) -> Result<(RunOrder, bool), Reply> {
    let members = call.members()?;
    let words = hosts(members)?;
    let script = members.get("script").and_then(Raw::string);
    let Some(script) = script.filter(|name| names::is_script_name(name)) else {
        let detail = "script name required (alphanumeric and hyphens only)";
        return Err(Reply::bad(detail));
    };
    let args = arguments(members)?;
    let run_async = flag(members, "async")?;
    let username = text(members, "username")?;
    text(members, "token")?;
    let source_ip = call.peer.to_string();
    let order = RunOrder {
        words,
        script,
        args,
        token: call.token.clone(),
        by: Origin {
            username: Some(username.clone()).filter(|name| !name.is_empty()),
            ..Origin::default()
        },
        submitter: Some(Submitter {
            username: username.clone(),
            source_ip: source_ip.clone(),
        }),
        username,
        source_ip,
        ..RunOrder::default()
    };
    Ok((order, run_async))
}

fn arguments(members: &Members) -> Result<Vec<String>, Reply> {
    let args = match members.get("args") {
        None => return Ok(Vec::new()),
        Some(args) if args.is_array() => args,
        Some(args) if args.scalar() == Scalar::Null => return Ok(Vec::new()),
        Some(_) => return Err(Reply::bad("args must be an array")),
    };
    let texts = args.items().map(|item| item.text().map(Cow::into_owned));
    let texts: Option<Vec<String>> = texts.collect();
    texts.ok_or_else(|| Reply::bad("args must be an array of strings"))
}

/// A truth: the reference takes anything that Perl does, the text "false" as true.
fn flag(members: &Members, key: &str) -> Result<bool, Reply> {
    match members.get(key).map_or("null", Raw::as_str) {
        "null" | "false" | "0" | "-0" => Ok(false),
        "true" | "1" => Ok(true),
        _ => Err(Reply::bad(format!("{key} must be true or false"))),
    }
}

/// Begins a run and sends its events. What keeps it from beginning is an answer as ever.
fn stream(app: &Arc<App>, order: RunOrder, permit: &Permit) -> Step {
    let Some(driving) = app.hub.drive(app.settings.most_requests) else {
        return Step::Answer(Reply::overloaded());
    };
    let order = RunOrder {
        follow: true,
        ..order
    };
    match run::start(&app.dispatcher, order, permit, app.limits()) {
        Ok(run) => events::stream(app, run, driving),
        Err(error) => Step::Answer(Reply::of(&error, app.settings.generic_denials)),
    }
}

fn wait(app: &Arc<App>, order: RunOrder, permit: &Permit) -> Result<Reply, AppError> {
    let mut task = run::start(&app.dispatcher, order, permit, app.limits())?;
    let begun = Instant::now();
    let mut body = head(task.reqid());
    let (mut first, mut output) = (true, 0);
    while task.left() > 0 {
        if let Some(Event::Ended(mut result)) = task.next(LONG) {
            result.tidy();
            app.meters.host(result.outcome);
            output += result.reply.output_size();
            if output > MAX_OUTPUT {
                result.reply.leave_output_out();
            }
            add(&mut body, &mut first, &result.to_json());
        }
    }
    app.meters.run(begun.elapsed());
    body.push_str("]}");
    Ok(Reply::new(200, JSON, body))
}

fn submit(app: &Arc<App>, order: RunOrder, permit: &Permit) -> Result<Reply, AppError> {
    let mut task = run::submit(&app.dispatcher, order, permit, app.limits())?;
    let mut body = head(task.reqid());
    let mut first = true;
    while task.left() > 0 {
        if let Some(Event::Ended(mut result)) = task.next(LONG) {
            result.tidy();
            add(&mut body, &mut first, &result.to_json());
        }
    }
    body.push_str("],\"async\":true}");
    Ok(Reply::new(202, JSON, body))
}

fn head(reqid: &str) -> String {
    let reqid = Json::text(reqid).into_string();
    format!("{{\"ok\":true,\"reqid\":{reqid},\"results\":[")
}

fn add(body: &mut String, first: &mut bool, result: &str) {
    if !std::mem::take(first) {
        body.push(',');
    }
    body.push_str(result);
}
