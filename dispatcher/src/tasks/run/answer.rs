//! What an agent's answer to a run means.

use super::super::fanout::{Failure, answered, failed, is_success};
use super::call::input_lacks;
use crate::fleet::{Answer, Call};
use crate::model::{EntryState, HostEntry, HostResult, Outcome, RunEnd, Submission, Submitted};
use ctrl_exec_protocol::json::{Bounds, Members};
use ctrl_exec_protocol::wire::messages::RUN_INPUT;
use ctrl_exec_reactor::http::Response;

/// The result of a sync run.
pub fn run_result(call: &Call, script: &str, reqid: &str, answer: Answer) -> HostResult<RunEnd> {
    let rtt = answer.rtt;
    let output = answer.output;
    let mut result = match answer.result {
        Ok(response) if is_success(&response) => {
            match Members::parse(&response.body, &Bounds::RECORD).ok() {
                Some(body) => answered(call, rtt, body, outcome),
                None => {
                    let mut result: HostResult<RunEnd> =
                        failed(call, rtt, Failure::answer("invalid JSON response"));
                    result.reply.exit = Some(-1);
                    result
                }
            }
        }
        other => {
            let failure = match &other {
                Ok(response) => of_status(call, response),
                Err(error) => Failure::of_run(error),
            };
            let mut result: HostResult<RunEnd> = failed(call, rtt, failure);
            result.reply.exit = Some(-1);
            result.reply.script = Some(script.to_owned());
            result
        }
    };
    if let Some(output) = output {
        result.reply.add_output(*output);
    }
    // Ours, whatever the agent says: it is the key of records and logs.
    result.reply.reqid = Some(reqid.to_owned());
    result
}

/// What a status other than 2xx means of a run. Agents that know no input do not know its path.
fn of_status(call: &Call, response: &Response) -> Failure {
    if response.status == 404 && call.path == RUN_INPUT {
        let error = call.refusal(input_lacks());
        return Failure::transport(&error);
    }
    Failure::status(response)
}

/// The result of an async submission. One without `status` is the agent's refusal.
pub fn async_result(
    call: &Call,
    script: &str,
    reqid: &str,
    answer: Answer,
) -> HostResult<Submission> {
    let rtt = answer.rtt;
    let without_answer = |failure: Failure, status: &str, submitted| {
        let mut result: HostResult<Submission> = failed(call, rtt, failure);
        result.reply.status = Some(status.to_owned());
        result.reply.submitted = submitted;
        result.reply.script = Some(script.to_owned());
        result
    };
    let mut result = match &answer.result {
        Ok(response) if is_success(response) => {
            match Members::parse(&response.body, &Bounds::RECORD).ok() {
                Some(body) => answered(call, rtt, body, |reply: &Submission, _| {
                    match reply.submitted {
                        Submitted::Accepted => Outcome::Ok,
                        Submitted::Busy | Submitted::No => Outcome::Refused,
                    }
                }),
                None => {
                    let failure = Failure::answer("invalid JSON response");
                    let mut result = without_answer(failure, "error", Submitted::No);
                    result.reply.script = None;
                    result
                }
            }
        }
        Ok(response) if response.status == 409 => {
            let error = Members::parse(&response.body, &Bounds::RECORD)
                .ok()
                .and_then(|body| body.text("error").map(std::borrow::Cow::into_owned))
                .unwrap_or_else(|| "script already running".to_owned());
            without_answer(Failure::refused(error), "busy", Submitted::Busy)
        }
        Ok(response) => without_answer(of_status(call, response), "error", Submitted::No),
        Err(error) => without_answer(Failure::of_run(error), "error", Submitted::No),
    };
    result.reply.reqid = Some(reqid.to_owned());
    result
}

/// The record's entry of an async result (dispatcher.md §12.2).
///
/// A submission whose end is not known may have been accepted: it is stored as accepted, and
/// asking for its result will tell.
pub(super) fn entry(result: &HostResult<Submission>) -> HostEntry {
    match (result.reply.submitted, result.outcome) {
        (Submitted::Accepted, _) => HostEntry::new(EntryState::Accepted),
        (_, Outcome::Unknown) => HostEntry {
            fetch_error: Some("submission interrupted".to_owned()),
            ..HostEntry::new(EntryState::Accepted)
        },
        (submitted, _) => {
            let state = match submitted {
                Submitted::Busy => EntryState::Busy,
                _ => EntryState::Error,
            };
            HostEntry {
                error: Some(result.error().unwrap_or_default().to_owned()),
                ..HostEntry::new(state)
            }
        }
    }
}

/// `exit` -1 with an `error` is how agents refuse with status 200.
fn outcome(end: &RunEnd, has_error: bool) -> Outcome {
    match end.exit {
        Some(0) => Outcome::Ok,
        Some(-1) | None if has_error => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fanout::testing::{answer_failed, answer_of, call};
    use super::*;
    use crate::fleet::Fault;
    use std::time::Duration;

    fn run(answer: Answer) -> String {
        run_result(&call(), "s", "id", answer).to_json()
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
            assert_eq!(run(answer_of(status, body)), expected);
        }
        let slow = || Fault::ReadTimeout(Duration::from_secs(7));
        let sent = run(answer_failed(slow(), true));
        assert!(sent.contains("read timeout after 7s"), "{sent}");
        assert!(sent.contains(r#""outcome":"unknown""#), "{sent}");
        let unsent = run(answer_failed(slow(), false));
        assert!(unsent.contains(r#""outcome":"unreached""#), "{unsent}");
        let never = run(answer_failed(Fault::NotStarted, false));
        assert!(never.contains(r#""outcome":"skipped""#), "{never}");
    }

    #[test]
    fn deaths_are_told() {
        let body = r#"{"exit":126,"signal":9,"oom":true,"time_limit":false,"code":"x"}"#;
        let result = run_result(&call(), "s", "id", answer_of(200, body));
        assert_eq!((result.reply.signal, result.reply.oom), (Some(9), true));
        assert_eq!(result.reply.death().unwrap(), "killed for want of memory");
        let line = result.to_json();
        assert!(line.contains(r#""oom":true"#), "{line}");
        assert!(line.contains(r#""signal":9"#), "{line}");
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
        for (answer, expected) in cases {
            let result = async_result(&call(), "s", "id", answer);
            assert_eq!(entry(&result).object().render(), expected);
        }
        let cut = async_result(&call(), "s", "id", answer_failed(Fault::Interrupted, true));
        assert_eq!(entry(&cut).state, EntryState::Accepted);
        let cut = async_result(&call(), "s", "id", answer_failed(Fault::Interrupted, false));
        assert_eq!(entry(&cut).state, EntryState::Error);
    }
}
