//! Requests to an agent and its answers.

pub use super::control::{CancelReply, CancelRequest, RunningScript, RunsReply};
pub use super::inspect::{CapabilitiesReply, Features, PingReply, ScriptEntry};
pub use super::renewal::{RenewCompleteReply, RenewCompleteRequest, RenewReply};
pub use super::run::{
    AsyncReply, Ending, MAX_INPUT, Output, RUN_INPUT, ResultReply, RunAnswer, RunHead, RunReply,
    RunRequest, RunRequestError, ScriptContext, refusal_of_busy, run_refusal, unknown_members,
};
pub use super::trust::{RotateReply, RotateRequest, TrustReply, TrustRequest};

use crate::json::{self, Bounds, Fields, Scalar};
use miniserde::Deserialize;

/// A body of which only the request id is of interest.
#[derive(Deserialize)]
struct OnlyReqid {
    reqid: Scalar,
}

/// The `reqid` of a body that may be anything; empty when there is none.
pub fn reqid_of(body: &[u8]) -> String {
    json::read_object::<OnlyReqid>(body, &Bounds::REQUEST)
        .map(|body| body.reqid.text())
        .unwrap_or_default()
}

/// A body of nothing but a request id: of `/ping` and `/renew`.
pub fn reqid_body(reqid: &str) -> String {
    Fields::with_room(1).text("reqid", reqid).finish()
}

/// The body of a failed request: `{"error":…}`.
pub fn error_body(error: &str) -> String {
    Fields::with_room(1).text("error", error).finish()
}

/// The body of a refused caller: `{"error":…,"status":"forbidden"}`.
pub fn forbidden_body(error: &str) -> String {
    Fields::with_room(2)
        .text("error", error)
        .text("status", "forbidden")
        .finish()
}

/// The body of a failed operation: `{"status":"error","error":…}`.
pub fn status_error(error: &str) -> String {
    Fields::with_room(2)
        .text("status", "error")
        .text("error", error)
        .finish()
}

/// How an answer says that something failed.
#[derive(Deserialize)]
struct OnlyError {
    status: Scalar,
    error: Scalar,
}

/// The `error` of an answer that may be anything; `None` when it has none, or says `status` `ok`.
pub fn error_of(body: &[u8]) -> Option<String> {
    let text = json::lossy(body);
    let answer: OnlyError = json::read_object(text.as_bytes(), &Bounds::ANSWER).ok()?;
    let failed = answer.status.text() != "ok" && !answer.error.is_null();
    failed.then(|| answer.error.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_errors_of_any_body() {
        assert_eq!(reqid_of(br#"{"reqid":7.0,"x":[{}]}"#), "7");
        for body in ["", "[]", "null", "{\"reqid\":[]}", "{\"reqid\":\"x\""] {
            assert_eq!(reqid_of(body.as_bytes()), "");
        }
        assert_eq!(reqid_of(reqid_body("a\"b").as_bytes()), "a\"b");
        assert_eq!(error_of(error_body("e").as_bytes()).as_deref(), Some("e"));
        assert_eq!(error_of(status_error("e").as_bytes()).as_deref(), Some("e"));
        assert_eq!(error_of(br#"{"status":"ok","error":"e"}"#), None);
        assert_eq!(error_of(b"{}"), None);
        assert_eq!(
            error_of(b"{\"error\":\"\xff\"}").as_deref(),
            Some("\u{fffd}")
        );
        assert_eq!(forbidden_body("e"), r#"{"error":"e","status":"forbidden"}"#);
    }
}
