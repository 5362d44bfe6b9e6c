//! `POST /run` (dispatcher.md §9.1).

use super::{Failure, Outcome, finish, is_success, put_outcome};
use crate::fleet::{Answer, Call, Fault, Identity, Target};
use crate::jval::{self, Object};
use ctrl_exec_protocol::wire::messages::RunRequest;
use std::sync::Arc;

/// The body of a run, made once for the whole fleet.
#[derive(Clone, Debug)]
pub struct RunBody {
    body: Arc<str>,
    perl: Arc<str>,
}

impl RunBody {
    /// Renders a request. Agents of the reference hand each character of an argument to the script
    /// as one byte and die of one above U+00FF, so what they get is text whose characters are the
    /// bytes meant (dispatcher.md §8).
    pub fn new(request: &RunRequest) -> Self {
        let bytes = |text: &String| text.bytes().map(char::from).collect::<String>();
        let perl = RunRequest {
            args: request.args.iter().map(bytes).collect(),
            username: bytes(&request.username),
            token: bytes(&request.token),
            ..request.clone()
        };
        Self {
            body: request.render().into(),
            perl: perl.render().into(),
        }
    }
}

/// The call.
pub fn run_call(target: Target, identity: Identity, body: &RunBody) -> Call {
    let body = if target.perl { &body.perl } else { &body.body };
    Call::post(target, identity, "/run", Arc::clone(body))
}

/// The result of a sync run.
pub fn run_result(name: &str, script: &str, reqid: &str, answer: &Answer) -> Object {
    let mut result;
    match &answer.result {
        Ok(response) if is_success(response) => match jval::parse_object(&response.body) {
            Some(body) => {
                result = body;
                let outcome = outcome(&result);
                put_outcome(&mut result, outcome);
            }
            None => {
                result = jval::object([("exit", jval::int(-1))]);
                Failure::answer("invalid JSON response").put(&mut result);
            }
        },
        other => {
            result = jval::object([("exit", jval::int(-1)), ("script", jval::string(script))]);
            match other {
                Ok(response) => Failure::status(response),
                Err(error) => transport(error),
            }
            .put(&mut result);
        }
    }
    // Ours, whatever the agent says: it is the key of records and logs.
    result.insert("reqid".to_owned(), jval::string(reqid));
    finish(&mut result, name, answer);
    result
}

/// The result of an async submission. One without `status` is the agent's refusal.
pub fn async_result(name: &str, script: &str, reqid: &str, answer: &Answer) -> Object {
    let mut result;
    match &answer.result {
        Ok(response) if is_success(response) => match jval::parse_object(&response.body) {
            Some(body) => {
                result = body;
                let accepted = jval::str_or_empty(&result, "status") == "accepted";
                put_outcome(
                    &mut result,
                    if accepted {
                        Outcome::Ok
                    } else {
                        Outcome::Refused
                    },
                );
            }
            None => {
                result = jval::object([("status", jval::string("error"))]);
                Failure::answer("invalid JSON response").put(&mut result);
            }
        },
        Ok(response) if response.status == 409 => {
            result = jval::object([
                ("script", jval::string(script)),
                ("status", jval::string("busy")),
            ]);
            let error = jval::parse_object(&response.body)
                .and_then(|body| jval::text(&body, "error").map(std::borrow::Cow::into_owned))
                .unwrap_or_else(|| "script already running".to_owned());
            Failure::refused(error).put(&mut result);
        }
        other => {
            result = jval::object([
                ("script", jval::string(script)),
                ("status", jval::string("error")),
            ]);
            match other {
                Ok(response) => Failure::status(response),
                Err(error) => transport(error),
            }
            .put(&mut result);
        }
    }
    // Ours, whatever the agent says: it is the key of records and logs.
    result.insert("reqid".to_owned(), jval::string(reqid));
    finish(&mut result, name, answer);
    result
}

/// The run-store entry of an async result (dispatcher.md §12.2).
///
/// A submission that was interrupted may have been accepted: it is stored as accepted, and asking
/// for its result will tell.
pub fn async_entry(result: &Object, interrupted: bool) -> Object {
    match jval::str_or_empty(result, "status") {
        "accepted" => jval::object([("status", jval::string("accepted"))]),
        _ if interrupted => jval::object([
            ("status", jval::string("accepted")),
            ("fetch_error", jval::string("submission interrupted")),
        ]),
        status => {
            let status = if status == "busy" { "busy" } else { "error" };
            let error = jval::text(result, "error").unwrap_or_default();
            jval::object([
                ("status", jval::string(status)),
                ("error", jval::string(error)),
            ])
        }
    }
}

fn transport(error: &crate::fleet::CallError) -> Failure {
    let mut failure = Failure::transport(error);
    if let Fault::ReadTimeout(limit) = error.fault {
        failure.error = format!("read timeout after {}s", limit.as_secs());
    }
    failure
}

/// `exit` -1 with an `error` is how agents refuse with status 200.
fn outcome(result: &Object) -> Outcome {
    match jval::integer(result, "exit") {
        Some(0) => Outcome::Ok,
        Some(-1) | None if result.contains_key("error") => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{answer_failed, answer_of};
    use super::*;
    use std::time::Duration;

    fn run(answer: &Answer) -> String {
        jval::line(&run_result("vm", "s", "id", answer))
    }

    #[test]
    fn answers_of_agents() {
        for (status, body, expected) in [
            (
                200,
                r#"{"script":"s","exit":0,"stdout":"o","stderr":"","reqid":"r","host":"vm.x"}"#,
                r#"{"exit":0,"host":"vm","outcome":"ok","reported_hostname":"vm.x","reqid":"id","rtt":"5ms","script":"s","stderr":"","stdout":"o"}"#,
            ),
            (
                200,
                r#"{"exit":3,"new":[1]}"#,
                r#"{"exit":3,"host":"vm","new":[1],"outcome":"failed","reqid":"id","rtt":"5ms"}"#,
            ),
            (
                200,
                r#"{"exit":-1,"error":"script not permitted"}"#,
                r#"{"error":"script not permitted","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms"}"#,
            ),
            (
                200,
                r#"{"exit":-1,"stderr":"executor unreachable"}"#,
                r#"{"exit":-1,"host":"vm","outcome":"failed","reqid":"id","rtt":"5ms","stderr":"executor unreachable"}"#,
            ),
            (
                200,
                "<html>",
                r#"{"error":"invalid JSON response","exit":-1,"host":"vm","outcome":"unreached","phase":"http","reqid":"id","rtt":"5ms"}"#,
            ),
            (
                403,
                r#"{"error":"serial mismatch"}"#,
                r#"{"error":"forbidden: serial mismatch","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
            (
                403,
                "no",
                r#"{"error":"forbidden: 403 Forbidden","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
            (
                413,
                "",
                r#"{"error":"request too large","exit":-1,"host":"vm","outcome":"refused","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
            (
                404,
                "{}",
                r#"{"error":"404 Not Found","exit":-1,"host":"vm","outcome":"unreached","phase":"http","reqid":"id","rtt":"5ms","script":"s"}"#,
            ),
        ] {
            assert_eq!(run(&answer_of(status, body)), expected);
        }
        let slow = run(&answer_failed(Fault::ReadTimeout(Duration::from_secs(7))));
        assert!(slow.contains("read timeout after 7s"), "{slow}");
    }

    #[test]
    fn async_answers_and_their_entries() {
        let cases = [
            (
                answer_of(202, r#"{"status":"accepted","reqid":"r"}"#),
                r#"{"status":"accepted"}"#,
            ),
            (
                answer_of(409, r#"{"error":"script already running","status":"busy"}"#),
                r#"{"error":"script already running","status":"busy"}"#,
            ),
            (
                answer_of(409, ""),
                r#"{"error":"script already running","status":"busy"}"#,
            ),
            (
                answer_of(200, r#"{"exit":-1,"error":"not with the executor"}"#),
                r#"{"error":"not with the executor","status":"error"}"#,
            ),
            (
                answer_of(200, "x"),
                r#"{"error":"invalid JSON response","status":"error"}"#,
            ),
            (
                answer_of(503, ""),
                r#"{"error":"503 Service Unavailable","status":"error"}"#,
            ),
        ];
        for (answer, entry) in cases {
            let result = async_result("vm", "s", "id", &answer);
            assert_eq!(jval::line(&async_entry(&result, false)), entry);
        }
        let cut = async_result("vm", "s", "id", &answer_failed(Fault::Interrupted));
        assert_eq!(
            jval::str_or_empty(&async_entry(&cut, true), "status"),
            "accepted"
        );
    }
}
