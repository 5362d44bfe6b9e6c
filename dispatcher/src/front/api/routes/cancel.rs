//! `POST /cancel`: ends a run on its agents.

use super::status::missing;
use crate::front::api::call::{Call, hosts, text};
use crate::front::api::reply::{JSON, Reply};
use crate::front::api::step::Step;
use crate::front::api::tidy::Tidy;
use crate::tasks::auth::Asked;
use crate::tasks::cancel::{self, CancelOrder};
use crate::tasks::{Event, Task};
use ctrl_exec_protocol::json::{Json, Members, Raw};
use std::time::Duration;

/// Every call ends by its own limits.
const LONG: Duration = Duration::from_secs(3600);

/// Ends a run on the hosts given, or wherever its end is not known.
pub fn cancel(call: Call) -> Step {
    let read = call.members().and_then(|members| {
        let words = match members.get("hosts") {
            None => None,
            Some(_) => Some(hosts(members)?),
        };
        Ok((reqid(members)?, words, text(members, "username")?))
    });
    let (reqid, words, username) = match read {
        Ok(read) => read,
        Err(reply) => return Step::Answer(reply),
    };
    Step::Work(Box::new(move |app| {
        let record = match app.dispatcher.runs().load(&reqid) {
            Ok(record) => record,
            Err(error) => {
                return Step::Answer(Reply::error(500, "server error", error.to_string()));
            }
        };
        let open = record.as_ref().map(|record| record.unended_words());
        let words = words.or_else(|| open.clone()).unwrap_or_default();
        let order = CancelOrder {
            words,
            reqid: Some(reqid.clone()),
            username,
            token: call.token.clone(),
            source_ip: call.peer.to_string(),
            ..CancelOrder::default()
        };
        // A limited token is to fit the whole run, whichever hosts are named.
        let mut asked = Asked::from(order.hook_request());
        if let Some(record) = &record {
            asked.script.clone_from(&record.script);
            let all = record.hosts().into_iter().map(str::to_owned);
            asked.hosts.extend(all);
        }
        let limited = app.tokens.is_limited(&call.token);
        let generic = app.settings.generic_denials;
        Step::Ask(
            Box::new(asked),
            Box::new(move |verdict| match verdict {
                // To whom it is not there, it is not there.
                Err(_) if limited => Step::Answer(missing(&reqid)),
                Err(error) => Step::Answer(Reply::of(&error, generic)),
                Ok(_) if record.is_none() => Step::Answer(missing(&reqid)),
                Ok(_) if order.words.is_empty() => {
                    let detail = format!("run {reqid} has ended on all its hosts");
                    Step::Answer(Reply::error(409, "conflict", detail))
                }
                Ok(permit) => Step::work(move |app| {
                    let mut task = cancel::start(&app.dispatcher, &order, &permit, app.limits())?;
                    let reqid = Json::text(reqid).into_string();
                    let mut body = format!("{{\"ok\":true,\"reqid\":{reqid},\"results\":[");
                    let mut first = true;
                    while task.left() > 0 {
                        if let Some(Event::Ended(mut result)) = task.next(LONG) {
                            result.tidy();
                            if !std::mem::take(&mut first) {
                                body.push(',');
                            }
                            body.push_str(&result.to_json());
                        }
                    }
                    body.push_str("]}");
                    Ok(Reply::new(200, JSON, body))
                }),
            }),
        )
    }))
}

fn reqid(members: &Members) -> Result<String, Reply> {
    let id = members
        .get("reqid")
        .and_then(Raw::string)
        .unwrap_or_default();
    if ctrl_exec_protocol::names::is_reqid(&id) {
        Ok(id)
    } else {
        Err(Reply::bad("reqid required: the id of a run"))
    }
}
