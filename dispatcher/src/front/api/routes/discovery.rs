//! `GET` and `POST /discovery` (api.md §6.6).

use crate::front::api::app::App;
use crate::front::api::call::{Body, Call, hosts, text};
use crate::front::api::reply::{JSON, Reply};
use crate::front::api::step::Step;
use crate::front::api::tidy::Tidy;
use crate::model::{AppError, Capabilities, HostResult};
use crate::tasks::auth::Permit;
use crate::tasks::discover;
use crate::tasks::ping::Inquiry;
use crate::tasks::{Event, Task};
use ctrl_exec_protocol::json::Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Every call ends by its own limits.
const LONG: Duration = Duration::from_secs(3600);

/// Asks those named, or everybody. A body that makes no sense counts as none, as in the reference.
pub fn discovery(call: Call) -> Step {
    let read = match &call.body {
        Body::Object(members) => {
            let given = members.get("hosts");
            let some = given.is_some_and(|hosts| hosts.items().next().is_some());
            let words = if some { hosts(members) } else { Ok(Vec::new()) };
            words.and_then(|words| {
                text(members, "token")?;
                Ok((words, text(members, "username")?))
            })
        }
        Body::Missing | Body::Bad => Ok((Vec::new(), String::new())),
    };
    let (words, username) = match read {
        Ok(read) => read,
        Err(reply) => return Step::Answer(reply),
    };
    let inquiry = Inquiry {
        words,
        username,
        token: call.token.clone(),
        source_ip: call.peer.to_string(),
        ..Inquiry::default()
    };
    if !inquiry.words.is_empty() {
        return ask(&call.app, inquiry);
    }
    Step::Work(Box::new(move |app| match app.dispatcher.agents().names() {
        Ok(words) if words.is_empty() => Step::Answer(answer(&BTreeMap::new())),
        Ok(words) => ask(app, Inquiry { words, ..inquiry }),
        Err(error) => Step::Answer(Reply::of(&error.into(), app.settings.generic_denials)),
    }))
}

fn ask(app: &Arc<App>, inquiry: Inquiry) -> Step {
    let request = inquiry.hook_request("ping");
    Step::ask(app, request, move |permit| {
        Step::work(move |app| {
            let mut found = BTreeMap::new();
            each(app, &inquiry, &permit, |result| {
                found.insert(result.host.clone(), result.to_json());
            })?;
            Ok(answer(&found))
        })
    })
}

/// Asks agents what they offer, and hands over what each said.
///
/// # Errors
/// Those of [`discover::start`].
pub fn each(
    app: &Arc<App>,
    inquiry: &Inquiry,
    permit: &Permit,
    mut take: impl FnMut(&HostResult<Capabilities>),
) -> Result<(), AppError> {
    let mut task = discover::start(&app.dispatcher, inquiry, permit, app.limits())?;
    while task.left() > 0 {
        if let Some(Event::Ended(mut result)) = task.next(LONG) {
            result.tidy();
            take(&result);
        }
    }
    Ok(())
}

fn answer(hosts: &BTreeMap<String, String>) -> Reply {
    let mut body = String::from("{\"ok\":true,\"hosts\":{");
    for (at, (host, result)) in hosts.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        body.push_str(Json::text(host).as_str());
        body.push(':');
        body.push_str(result);
    }
    body.push_str("}}");
    Reply::new(200, JSON, body)
}
