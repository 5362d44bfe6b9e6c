//! What an agent answers when it is asked to run a script.

use super::reply::RunReply;
use super::told::Told;
use crate::json::{Fields, JsonError, Raw};

/// The body that refuses a run: `exit` -1 and an `error`.
pub fn run_refusal(script: Option<&str>, error: &str, reqid: Option<&str>) -> String {
    Fields::with_room(4)
        .text_if("script", script)
        .integer("exit", -1)
        .text("error", error)
        .text_if("reqid", reqid)
        .finish()
}

/// The body that refuses a run because as many run as may; nothing ran. `error` names them.
pub fn refusal_of_busy(script: &str, error: &str, reqid: &str) -> String {
    Fields::with_room(5)
        .text("script", script)
        .integer("exit", -1)
        .text("error", error)
        .text("code", BUSY)
        .text("reqid", reqid)
        .finish()
}

/// The `code` of a refusal that another try later may not meet.
const BUSY: &str = "busy";

/// What an agent answers to a synchronous run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RunAnswer {
    /// The script ended.
    Ended(RunReply),
    /// Nothing ran.
    Refused {
        /// Why, in the agent's words.
        error: String,
        /// As many scripts ran as may.
        busy: bool,
    },
}

impl RunAnswer {
    /// Reads the body of an answer with a status of success. `exit` -1 with an `error` is how
    /// agents refuse.
    ///
    /// # Errors
    /// It is not a JSON object, or absurdly large in number of values.
    pub fn parse(body: &[u8]) -> Result<Self, JsonError> {
        let told = Told::read(body)?;
        if told.exit() == -1 && !told.error.is_null() {
            let busy = told.code.text() == BUSY;
            return Ok(Self::Refused {
                error: told.error.text(),
                busy,
            });
        }
        Ok(Self::Ended(told.reply()))
    }
}

/// What an agent answers to an asynchronous run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AsyncReply {
    /// It was started, or will be found under its id.
    Accepted,
    /// Another run of the script is under way.
    Busy {
        /// The agent's words.
        error: String,
    },
    /// Anything else.
    Refused {
        /// The agent's words; empty when it has none.
        error: String,
    },
}

impl AsyncReply {
    /// Reads the body of an answer with a status of success, or 409.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, JsonError> {
        let told = Told::read(body)?;
        let error = told.error.text();
        Ok(match told.status.text().as_str() {
            "accepted" => Self::Accepted,
            "busy" => Self::Busy { error },
            _ => Self::Refused { error },
        })
    }

    /// The body, for a run of this script and id.
    pub fn render(&self, script: &str, reqid: &str) -> String {
        let mut out = Fields::with_room(4);
        match self {
            Self::Accepted => out
                .text("script", script)
                .text("status", "accepted")
                .text("reqid", reqid)
                .finish(),
            Self::Busy { error } => out
                .text("script", script)
                .text("status", "busy")
                .text("reqid", reqid)
                .text("error", error)
                .finish(),
            Self::Refused { error } => run_refusal(Some(script), error, Some(reqid)),
        }
    }
}

/// The members of an answer whose names no message here knows, for records that keep them: name and
/// text of the value as it came.
pub fn unknown_members<'t>(answer: Raw<'t>, known: &[&str]) -> Vec<(String, &'t str)> {
    answer
        .members()
        .filter(|(name, _)| !known.contains(&name.as_ref()))
        .map(|(name, value)| (name.into_owned(), value.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::reply::{Ending, Output};
    use super::*;
    use crate::json::Bounds;

    #[test]
    fn answers_to_a_run() {
        let ended = RunReply {
            script: "s".into(),
            exit: 126,
            stdout: Output {
                text: "o\n".into(),
                dropped: 9,
                gap_at: 1,
            },
            ending: Ending {
                signal: Some(9),
                oom: true,
                time_limit: true,
                cancelled: true,
            },
            reqid: "r".into(),
            ..RunReply::default()
        };
        assert_eq!(
            ended.render(),
            r#"{"script":"s","exit":126,"stdout":"o\n","stderr":"","stdout_truncated":9,"stdout_gap":1,"signal":9,"oom":true,"time_limit":true,"cancelled":true,"reqid":"r"}"#
        );
        assert_eq!(
            RunAnswer::parse(ended.render().as_bytes()),
            Ok(RunAnswer::Ended(ended))
        );
        let refused = |body: &str| match RunAnswer::parse(body.as_bytes()) {
            Ok(RunAnswer::Refused { error, busy }) => (error, busy),
            other => panic!("{other:?}"),
        };
        let body = run_refusal(None, "not permitted", None);
        assert_eq!(body, r#"{"exit":-1,"error":"not permitted"}"#);
        assert_eq!(refused(&body), ("not permitted".into(), false));
        assert_eq!(refused(r#"{"error":7}"#), ("7".into(), false));
        let body = refusal_of_busy("s", "busy: 1 of 1", "r");
        assert_eq!(refused(&body), ("busy: 1 of 1".into(), true));
        // What agents of the reference make of numbers and bytes.
        let perl = b"{\"exit\":\"3\",\"stdout\":\"\xff\",\"stderr\":5,\"new\":[1]}";
        let Ok(RunAnswer::Ended(reply)) = RunAnswer::parse(perl) else {
            panic!("refused");
        };
        assert_eq!((reply.exit, reply.stdout.text.as_str()), (3, "\u{fffd}"));
        assert_eq!(reply.stderr.text, "");
        assert!(RunAnswer::parse(b"[]").is_err());
        let raw = Raw::parse(br#"{"exit":3,"new":[1.0]}"#, &Bounds::ANSWER).unwrap();
        assert_eq!(
            unknown_members(raw, &["exit"]),
            [("new".to_owned(), "[1.0]")]
        );
    }

    #[test]
    fn answers_to_an_async_run() {
        for (reply, body) in [
            (
                AsyncReply::Accepted,
                r#"{"script":"s","status":"accepted","reqid":"r"}"#,
            ),
            (
                AsyncReply::Busy { error: "e".into() },
                r#"{"script":"s","status":"busy","reqid":"r","error":"e"}"#,
            ),
            (
                AsyncReply::Refused { error: "e".into() },
                r#"{"script":"s","exit":-1,"error":"e","reqid":"r"}"#,
            ),
        ] {
            assert_eq!(reply.render("s", "r"), body);
            assert_eq!(AsyncReply::parse(body.as_bytes()), Ok(reply));
        }
    }
}
