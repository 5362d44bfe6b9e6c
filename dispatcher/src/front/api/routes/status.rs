//! `GET /status/{reqid}` (api.md §6.5).

use crate::front::api::app::App;
use crate::front::api::call::Call;
use crate::front::api::reply::Reply;
use crate::front::api::step::Step;
use crate::model::{AppError, RunRecord};
use crate::store::runs::RunStoreError;
use crate::tasks::auth::Asked;
use crate::tasks::follow;
use std::sync::Arc;

/// Reads the record, asks the hook whether this caller may see it, and only then asks agents. A
/// denial and a run that does not exist look the same.
pub fn status(call: Call) -> Step {
    owned(call, |call, record| {
        let reqid = call.param;
        Step::work(move |app| {
            Ok(match look(app, &reqid, record)? {
                None => missing(&reqid),
                Some(record) => Reply::ok(record.public_object()),
            })
        })
    })
}

/// Goes on with a run that the caller may see.
pub fn owned(call: Call, then: impl FnOnce(Call, RunRecord) -> Step + Send + 'static) -> Step {
    Step::Work(Box::new(move |app| {
        let record = match app.dispatcher.runs().load(&call.param) {
            Ok(Some(record)) => record,
            // As in the reference, what cannot be read is not there.
            Ok(None) | Err(RunStoreError::Damaged { .. }) => {
                return Step::Answer(missing(&call.param));
            }
            Err(error) => {
                let detail = format!("cannot read result: {error}");
                return Step::Answer(Reply::error(500, "server error", detail));
            }
        };
        let mut request = call.hook_request("status");
        request.reqid.clone_from(&call.param);
        request.submitter = record.submitter();
        let asked = Asked {
            script: record.script.clone(),
            hosts: record.hosts().into_iter().map(str::to_owned).collect(),
            request,
        };
        Step::Ask(
            Box::new(asked),
            Box::new(move |verdict| match verdict {
                Ok(_) => then(call, record),
                Err(_) => Step::Answer(missing(&call.param)),
            }),
        )
    }))
}

/// The answer to a run that is not there.
pub fn missing(reqid: &str) -> Reply {
    Reply::not_found(format!("no result for reqid {reqid}"))
}

/// The record as agents have it now, or as it is when they were asked a moment ago.
pub fn look(app: &Arc<App>, reqid: &str, record: RunRecord) -> Result<Option<RunRecord>, AppError> {
    if record.open_hosts().is_empty() || !app.looks.take(reqid) {
        return Ok(Some(record));
    }
    let record = follow::look(&app.dispatcher, reqid, None, app.limits())?;
    if record.as_ref().is_none_or(|record| record.complete) {
        app.looks.forget(reqid);
    }
    Ok(record)
}
