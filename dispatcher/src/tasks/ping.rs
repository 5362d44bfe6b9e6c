//! `POST /ping`, `GET /capabilities` and `POST /rotate-serial` (dispatcher.md §9.2, §9.3, §9.5).

use super::{Failure, Outcome, finish, is_success, put_outcome, status_line};
use crate::fleet::{Answer, Call, Identity, Target};
use crate::jval::{self, Object};
use ctrl_exec_protocol::json;
use std::sync::Arc;

/// The ping of an agent; its certificate is wanted, for renewal.
pub fn ping_call(target: Target, identity: Identity, reqid: &str) -> Call {
    let body: Arc<str> = json::object().str("reqid", reqid).finish().into();
    Call {
        want_certificate: true,
        ..Call::post(target, identity, "/ping", body)
            .small()
            .repeatable()
    }
}

/// Its result.
pub fn ping_result(name: &str, answer: &Answer) -> Object {
    status_result(name, answer, Failure::status)
}

/// The question what an agent offers.
pub fn capabilities_call(target: Target, identity: Identity) -> Call {
    Call::get(target, identity, "/capabilities")
}

/// Its result. Other than for ping, the reference keeps the raw status line of a 403.
pub fn capabilities_result(name: &str, answer: &Answer) -> Object {
    status_result(name, answer, |response| match response.status {
        403 => Failure::refused(status_line(response)),
        _ => Failure::answer(status_line(response)),
    })
}

/// Tells an agent to trust (`add`) or forget (`remove`) a serial.
pub fn rotate_call(target: Target, identity: Identity, serial: &str, action: &str) -> Call {
    let body = json::object()
        .str("serial", serial)
        .str("action", action)
        .finish();
    Call::post(target, identity, "/rotate-serial", body)
        .small()
        .repeatable()
}

/// Its result; `exit` is 0 when the agent confirmed.
pub fn rotate_result(name: &str, answer: &Answer) -> Object {
    let mut result = status_result(name, answer, Failure::status);
    let confirmed = jval::str_or_empty(&result, "status") == "ok";
    let exit = jval::int(if confirmed { 0 } else { -1 });
    jval::set_default(&mut result, "exit", exit);
    result
}

fn status_result(
    name: &str,
    answer: &Answer,
    refusal: impl Fn(&ctrl_exec_reactor::http::Response) -> Failure,
) -> Object {
    let failure = match &answer.result {
        Ok(response) if is_success(response) => match jval::parse_object(&response.body) {
            Some(mut result) => {
                let ok = jval::str_or_empty(&result, "status") == "ok";
                put_outcome(&mut result, if ok { Outcome::Ok } else { Outcome::Failed });
                finish(&mut result, name, answer);
                return result;
            }
            None => Failure::answer("invalid JSON"),
        },
        Ok(response) => refusal(response),
        Err(error) => Failure::transport(error),
    };
    let mut result = jval::object([("status", jval::string("error"))]);
    failure.put(&mut result);
    finish(&mut result, name, answer);
    result
}

#[cfg(test)]
mod tests {
    use super::super::{answer_failed, answer_of};
    use super::*;
    use crate::fleet::Fault;
    use std::time::Duration;

    #[test]
    fn pings() {
        let line = |answer: &Answer| jval::line(&ping_result("vm", answer));
        assert_eq!(
            line(&answer_of(
                200,
                r#"{"status":"ok","host":"vm.example","version":"0.12.3"}"#
            )),
            r#"{"host":"vm","outcome":"ok","reported_hostname":"vm.example","rtt":"5ms","status":"ok","version":"0.12.3"}"#
        );
        assert_eq!(
            line(&answer_of(403, r#"{"error":"serial mismatch"}"#)),
            r#"{"error":"forbidden: serial mismatch","host":"vm","outcome":"refused","rtt":"5ms","status":"error"}"#
        );
        assert_eq!(
            line(&answer_of(200, "hello")),
            r#"{"error":"invalid JSON","host":"vm","outcome":"unreached","phase":"http","rtt":"5ms","status":"error"}"#
        );
        let slow = line(&answer_failed(Fault::ReadTimeout(Duration::from_secs(1))));
        assert!(slow.contains("connection timed out"), "{slow}");
    }

    #[test]
    fn capabilities_and_rotation() {
        let denied = capabilities_result("vm", &answer_of(403, r#"{"error":"forbidden"}"#));
        assert_eq!(jval::str_or_empty(&denied, "error"), "403 Forbidden");
        let exit =
            |status, body| jval::integer(&rotate_result("vm", &answer_of(status, body)), "exit");
        assert_eq!(exit(200, r#"{"status":"ok"}"#), Some(0));
        assert_eq!(exit(200, r#"{"status":"error","error":"x"}"#), Some(-1));
        assert_eq!(exit(403, ""), Some(-1));
        assert_eq!(exit(200, r#"{"status":"ok","exit":7}"#), Some(7));
    }
}
