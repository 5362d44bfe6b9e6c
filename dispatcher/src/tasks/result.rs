//! `GET /result/<reqid>` (dispatcher.md §9.4) and what it does to a host's entry (§12.3).

use super::{Failure, is_success};
use crate::fleet::{Answer, Call, Identity, Target};
use crate::jval::{self, Object, Value};

/// The call. `reqid` has been checked to be of letters, digits, `_` and `-`.
pub fn result_call(target: Target, identity: Identity, reqid: &str) -> Call {
    Call::get(target, identity, format!("/result/{reqid}"))
}

/// What an agent said of a run.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// It is over; the entry with exit, stdout and stderr.
    Done(Object),
    /// It still runs.
    Running,
    /// The agent knows nothing of it, or not any more.
    Unknown,
    /// Nothing was learned.
    Error(String),
}

/// Reads an answer.
pub fn result_of(answer: &Answer) -> Fetched {
    let response = match &answer.result {
        Ok(response) => response,
        Err(error) => return Fetched::Error(error.to_string()),
    };
    if response.status == 404 {
        return Fetched::Unknown;
    }
    if !is_success(response) {
        let failure = Failure::status(response);
        return Fetched::Error(failure.error);
    }
    let Some(body) = jval::parse_object(&response.body) else {
        return Fetched::Error("invalid JSON".to_owned());
    };
    match jval::str_or_empty(&body, "status") {
        "done" => Fetched::Done(done_entry(body)),
        "running" => Fetched::Running,
        "unknown" => Fetched::Unknown,
        other => Fetched::Error(match jval::text(&body, "error") {
            Some(error) => error.into_owned(),
            None => format!("unexpected status '{}'", other.escape_debug()),
        }),
    }
}

impl Fetched {
    /// Applies what was learned to a host's entry.
    pub fn apply(&self, entry: &mut Object) {
        match self {
            Self::Done(done) => *entry = done.clone(),
            Self::Running => set_status(entry, "running"),
            Self::Unknown => set_status(entry, "expired"),
            Self::Error(error) => {
                entry.insert("fetch_error".to_owned(), jval::string(error.as_str()));
            }
        }
    }
}

fn set_status(entry: &mut Object, status: &str) {
    entry.insert("status".to_owned(), jval::string(status));
    entry.remove("fetch_error");
}

/// The reference keeps exit, stdout and stderr; we also keep what an agent of ours says about
/// bytes it had to leave out.
fn done_entry(mut body: Object) -> Object {
    let mut entry = jval::object([
        ("status", jval::string("done")),
        (
            "exit",
            jval::int(jval::integer(&body, "exit").unwrap_or(-1)),
        ),
    ]);
    for key in ["stdout", "stderr"] {
        let text = body
            .remove(key)
            .filter(|value| matches!(value, Value::String(_)));
        entry.insert(key.to_owned(), text.unwrap_or_else(|| jval::string("")));
    }
    for key in ["stdout_truncated", "stderr_truncated"] {
        if let Some(dropped) = body.remove(key) {
            entry.insert(key.to_owned(), dropped);
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::super::{answer_failed, answer_of};
    use super::*;
    use crate::fleet::Fault;

    #[test]
    fn the_table() {
        for (answer, expected) in [
            (
                answer_of(
                    200,
                    r#"{"status":"done","exit":4,"stdout":"o","stderr":"e","owner":"x"}"#,
                ),
                r#"{"exit":4,"status":"done","stderr":"e","stdout":"o"}"#,
            ),
            (
                answer_of(200, r#"{"status":"running"}"#),
                r#"{"status":"running"}"#,
            ),
            (answer_of(404, ""), r#"{"status":"expired"}"#),
            (
                answer_of(403, r#"{"error":"serial mismatch"}"#),
                r#"{"fetch_error":"forbidden: serial mismatch","status":"accepted"}"#,
            ),
            (
                answer_of(200, "x"),
                r#"{"fetch_error":"invalid JSON","status":"accepted"}"#,
            ),
        ] {
            let mut entry = jval::object([
                ("status", jval::string("accepted")),
                ("fetch_error", jval::string("old")),
            ]);
            result_of(&answer).apply(&mut entry);
            assert_eq!(jval::line(&entry), expected);
        }
        let gone = result_of(&answer_failed(Fault::Refused));
        assert!(matches!(gone, Fetched::Error(text) if text.contains("connection refused")));
    }
}
