//! `GET /pairing` and `POST /pairing/{id}`: who asks to be paired, and the decision.

use crate::ca::CaDir;
use crate::config::DEFAULT_DIR;
use crate::front::api::app::App;
use crate::front::api::call::Call;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use crate::model::{AppError, Kind};
use crate::pairing::{DIR, Desk, Overrides, Queue, Queued};
use ctrl_exec_protocol::json::{Json, Members, Raw};
use ctrl_exec_protocol::time::Utc;

/// The requests that wait.
pub fn list(call: Call) -> Step {
    let request = call.hook_request("pairing");
    Step::ask(&call.app, request, |_| {
        Step::work(|app| {
            let desk = desk(app);
            let pending = desk.queue.pending()?;
            let items = pending.iter().map(|queued| shown(&desk, queued));
            let body = Members::of([("requests", Json::list(items))]);
            Ok(Reply::ok(body))
        })
    })
}

/// Approves or denies one. Approving takes the code that was compared, and the CA's key, which the
/// user of this program cannot read as it is installed: then it says what to do instead.
pub fn decide(call: Call) -> Step {
    let read = call.members().and_then(|members| {
        let text = |key| members.get(key).and_then(Raw::string).unwrap_or_default();
        let code = text("code");
        match (&*text("decision"), code.as_str()) {
            ("deny", _) => Ok(None),
            ("approve", "") => Err(Reply::bad(
                "code required: the six digits that the agent shows",
            )),
            ("approve", _) => Ok(Some(code)),
            _ => Err(Reply::bad("decision must be approve or deny")),
        }
    });
    let code = match read {
        Ok(code) => code,
        Err(reply) => return Step::Answer(reply),
    };
    let request = call.hook_request("pair");
    let id = call.param;
    Step::ask(&call.app, request, move |_| {
        Step::work(move |app| {
            let desk = desk(app);
            let log = app.dispatcher.log.handle();
            let decided = match code {
                None => desk.deny(&id, &log).map(|queued| (queued, "denied"))?,
                Some(code) => {
                    can_sign(&desk, &id)?;
                    let overrides = Overrides {
                        code: Some(code),
                        ..Overrides::default()
                    };
                    let approved = desk.approve(&id, &overrides, &log, Utc::now())?;
                    (approved.queued, "approved")
                }
            };
            let (queued, word) = decided;
            Ok(Reply::ok(Members::of([
                ("id", Json::text(queued.id)),
                ("hostname", Json::text(queued.hostname)),
                ("decision", Json::text(word)),
            ])))
        })
    })
}

fn can_sign(desk: &Desk, id: &str) -> Result<(), AppError> {
    match std::fs::File::open(desk.ca.key()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let message = format!("this API may not sign; on the dispatcher: ced approve {id}");
            Err(AppError::new(Kind::Conflict, message))
        }
        _ => Ok(()),
    }
}

fn desk(app: &App) -> Desk {
    let dispatcher = &app.dispatcher;
    let root = &dispatcher.root;
    Desk {
        queue: Queue::new(root.path(DIR)),
        registry: dispatcher.agents(),
        issued: dispatcher.issued(),
        root: root.clone(),
        ca: CaDir::new(root.path(DEFAULT_DIR)),
        cert: dispatcher.config.cert(),
        dispatcher_id: dispatcher.config.dispatcher_id(),
    }
}

fn shown(desk: &Desk, queued: &Queued) -> Members {
    Members::of([
        ("id", Json::text(&*queued.id)),
        ("hostname", Json::text(&*queued.hostname)),
        ("code", Json::text(&*queued.code)),
        ("ip", Json::text(&*queued.ip)),
        ("source_ip", Json::text(&*queued.source_ip)),
        ("received", Json::text(&*queued.received)),
        ("reverse_dns", Json::text(&*queued.reverse_dns)),
        ("reverse_confirmed", Json::flag(queued.reverse_confirmed)),
        ("warnings", Json::texts(desk.warnings(queued))),
    ])
}
