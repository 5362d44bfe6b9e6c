//! `POST /ping` (api.md §6.3).

use crate::front::api::call::{Call, hosts, text};
use crate::front::api::reply::{JSON, Reply};
use crate::front::api::step::Step;
use crate::front::api::tidy::Tidy;
use crate::tasks::ping::{self, Inquiry};
use crate::tasks::{Event, Task};
use std::time::Duration;

/// Reads the body, asks the hook, reaches the agents. Certificates that are due are not renewed here:
/// that takes the CA's key.
pub fn ping(call: Call) -> Step {
    let inquiry = match read(&call) {
        Ok(inquiry) => inquiry,
        Err(reply) => return Step::Answer(reply),
    };
    let request = inquiry.hook_request("ping");
    Step::ask(&call.app, request, move |permit| {
        Step::work(move |app| {
            let mut task = ping::start(&app.dispatcher, &inquiry, &permit, app.limits())?;
            let mut body = String::from("{\"ok\":true,\"results\":[");
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
        })
    })
}

fn read(call: &Call) -> Result<Inquiry, Reply> {
    let members = call.members()?;
    let words = hosts(members)?;
    let username = text(members, "username")?;
    text(members, "token")?;
    Ok(Inquiry {
        words,
        username,
        token: call.token.clone(),
        source_ip: call.peer.to_string(),
        ..Inquiry::default()
    })
}

/// Every call ends by its own limits.
const LONG: Duration = Duration::from_secs(3600);
