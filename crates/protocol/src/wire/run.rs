//! `POST /run` and `GET /result/<reqid>`: a run from its request to its result.

use crate::json::{self, Bounds, Fields, JsonError, Raw, Scalar, Scalars};
use miniserde::Deserialize;
use std::fmt;

/// `POST /run`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunRequest {
    /// Script name, not yet checked.
    pub script: String,
    /// Arguments, scalars turned into text as the reference does.
    pub args: Vec<String>,
    /// Request id, not yet checked.
    pub reqid: String,
    /// Advisory user name.
    pub username: String,
    /// Token for hooks and scripts.
    pub token: String,
    /// Whether to run detached.
    pub run_async: bool,
    /// Seconds after which the script is ended with all it started. The reference ignores it.
    pub time_limit: Option<u32>,
}

/// Why a run request is refused; the text is the `error` member on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RunRequestError {
    /// The body is not a JSON object.
    InvalidJson(JsonError),
    /// `args` is something else than an array of scalars, or `time_limit` no time.
    InvalidArgs {
        /// Request id, to be echoed.
        reqid: String,
        /// What is wrong.
        error: &'static str,
    },
}

impl fmt::Display for RunRequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidJson(JsonError::TooComplex(_)) => "invalid JSON: too many values",
            Self::InvalidJson(JsonError::NotAnObject) => "invalid JSON: not an object",
            Self::InvalidJson(JsonError::Syntax(_)) => "invalid JSON",
            Self::InvalidArgs { error, .. } => error,
        })
    }
}

impl std::error::Error for RunRequestError {}

/// A run request as it comes.
#[derive(Deserialize)]
struct Asked {
    script: Scalar,
    args: Scalars,
    reqid: Scalar,
    username: Scalar,
    token: Scalar,
    #[serde(rename = "async")]
    run_async: Scalar,
    time_limit: Scalar,
}

impl RunRequest {
    /// Reads a body. `null` counts as an empty object, as it does for the reference.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(body: &[u8]) -> Result<Self, RunRequestError> {
        let asked: Asked = json::read_object_or_null(body, &Bounds::REQUEST)
            .map_err(RunRequestError::InvalidJson)?;
        let reqid = asked.reqid.text();
        let checked = texts(asked.args).and_then(|args| Ok((args, limit(&asked.time_limit)?)));
        let (args, time_limit) = match checked {
            Ok(checked) => checked,
            Err(error) => return Err(RunRequestError::InvalidArgs { reqid, error }),
        };
        Ok(Self {
            script: asked.script.text(),
            args,
            reqid,
            username: asked.username.text(),
            token: asked.token.text(),
            run_async: asked.run_async.is_true(),
            time_limit,
        })
    }

    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(7)
            .text("script", &self.script)
            .texts("args", &self.args)
            .text("reqid", &self.reqid)
            .text("username", &self.username)
            .text("token", &self.token)
            .flag_if("async", self.run_async)
            .count_if("time_limit", self.time_limit.map(u64::from))
            .finish()
    }
}

fn texts(args: Scalars) -> Result<Vec<String>, &'static str> {
    let items = match args {
        Scalars::Absent => return Ok(Vec::new()),
        Scalars::NotAnArray => return Err("args must be an array"),
        Scalars::List(items) => items,
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let text = item.into_text().ok_or("args must be an array of strings")?;
        if text.contains('\0') {
            return Err("args must not contain NUL");
        }
        texts.push(text);
    }
    Ok(texts)
}

fn limit(seconds: &Scalar) -> Result<Option<u32>, &'static str> {
    if seconds.is_null() {
        return Ok(None);
    }
    let number = seconds
        .count()
        .and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| *number > 0)
        .map(Some)
        .ok_or("time_limit must be a positive whole number of seconds")
}

/// What a script reads on its standard input, without a newline (agent.md §4.1).
#[derive(Clone, Debug)]
pub struct ScriptContext<'a> {
    /// The request.
    pub request: &'a RunRequest,
    /// Address of the caller.
    pub peer_ip: &'a str,
    /// Id of the calling dispatcher.
    pub dispatcher: &'a str,
    /// `YYYY-MM-DDTHH:MM:SSZ`.
    pub timestamp: &'a str,
}

impl ScriptContext<'_> {
    /// The JSON object.
    pub fn render(&self) -> String {
        Fields::with_room(8)
            .text("script", &self.request.script)
            .texts("args", &self.request.args)
            .text("reqid", &self.request.reqid)
            .text("peer_ip", self.peer_ip)
            .text("username", &self.request.username)
            .text("token", &self.request.token)
            .text("dispatcher", self.dispatcher)
            .text("timestamp", self.timestamp)
            .finish()
    }
}

/// One output stream of a script, as it travels: text, and how many bytes were left out of its
/// middle.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Output {
    /// The text; what was not UTF-8 is replaced.
    pub text: String,
    /// Bytes that are missing between head and tail; 0 when all is there.
    pub dropped: u64,
}

/// What is known of how a script was ended, beyond its exit status. The reference says none of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ending {
    /// The signal that ended it.
    pub signal: Option<u8>,
    /// The system ran out of memory and ended it.
    pub oom: bool,
    /// It was ended at its time limit.
    pub time_limit: bool,
    /// It was ended because somebody asked for that.
    pub cancelled: bool,
}

impl Ending {
    fn put(self, out: &mut Fields) {
        out.count_if("signal", self.signal.map(u64::from))
            .flag_if("oom", self.oom)
            .flag_if("time_limit", self.time_limit)
            .flag_if("cancelled", self.cancelled);
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunReply {
    /// Script name.
    pub script: String,
    /// Exit status 0–255, 126 for a signal, 127 when it could not be executed, -1 when not run.
    pub exit: i32,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// What else is known of its end.
    pub ending: Ending,
    /// Request id.
    pub reqid: String,
}

impl RunReply {
    /// The body of the synchronous answer.
    pub fn render(&self) -> String {
        let mut out = Fields::with_room(11);
        out.text("script", &self.script)
            .integer("exit", i64::from(self.exit))
            .text("stdout", &self.stdout.text)
            .text("stderr", &self.stderr.text);
        put_truncation(&mut out, &self.stdout, &self.stderr);
        self.ending.put(&mut out);
        out.text("reqid", &self.reqid).finish()
    }
}

/// Adds `stdout_truncated` and `stderr_truncated` (bytes dropped) where something was dropped.
fn put_truncation(out: &mut Fields, stdout: &Output, stderr: &Output) {
    for (name, stream) in [("stdout_truncated", stdout), ("stderr_truncated", stderr)] {
        out.count_if(name, Some(stream.dropped).filter(|dropped| *dropped > 0));
    }
}

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

/// Everything that the answers about a run may hold.
#[derive(Default, Deserialize)]
struct Told {
    reqid: Scalar,
    status: Scalar,
    script: Scalar,
    owner: Scalar,
    started: Scalar,
    finished: Scalar,
    exit: Scalar,
    error: Scalar,
    code: Scalar,
    stdout: Scalar,
    stderr: Scalar,
    stdout_truncated: Scalar,
    stderr_truncated: Scalar,
    signal: Scalar,
    oom: Scalar,
    time_limit: Scalar,
    cancelled: Scalar,
}

impl Told {
    /// Output of scripts of the reference may hold any bytes.
    fn read(body: &[u8]) -> Result<Self, JsonError> {
        json::read_object(json::lossy(body).as_bytes(), &Bounds::ANSWER)
    }

    fn exit(&self) -> i32 {
        let exit = self
            .exit
            .integer()
            .and_then(|exit| i32::try_from(exit).ok());
        exit.unwrap_or(-1)
    }

    fn reply(self) -> RunReply {
        let output = |text: Scalar, dropped: &Scalar| Output {
            text: text.into_string().unwrap_or_default(),
            dropped: dropped.count().unwrap_or_default(),
        };
        RunReply {
            exit: self.exit(),
            script: self.script.text(),
            stdout: output(self.stdout, &self.stdout_truncated),
            stderr: output(self.stderr, &self.stderr_truncated),
            ending: Ending {
                signal: self
                    .signal
                    .count()
                    .and_then(|signal| u8::try_from(signal).ok()),
                oom: self.oom.is_true(),
                time_limit: self.time_limit.is_true(),
                cancelled: self.cancelled.is_true(),
            },
            reqid: self.reqid.text(),
        }
    }
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

/// The result of an asynchronous run, as it is stored and sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResultReply {
    /// It has not ended.
    Running(RunHead),
    /// It has.
    Done {
        /// Which run.
        head: RunHead,
        /// When it ended, `YYYY-MM-DDTHH:MM:SSZ`.
        finished: String,
        /// How.
        reply: RunReply,
    },
    /// The agent knows no such run, or not any more.
    Unknown {
        /// The id asked for.
        reqid: String,
    },
}

/// Which run a result is of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunHead {
    /// Request id.
    pub reqid: String,
    /// Script name.
    pub script: String,
    /// Id of the dispatcher that asked for it.
    pub owner: String,
    /// When it was accepted, `YYYY-MM-DDTHH:MM:SSZ`.
    pub started: String,
}

impl RunHead {
    fn put(&self, status: &str, out: &mut Fields) {
        out.text("reqid", &self.reqid)
            .text("status", status)
            .text("script", &self.script)
            .text("owner", &self.owner)
            .text("started", &self.started);
    }
}

impl ResultReply {
    /// Reads a stored result, or the body of an answer. `None` for a status that has no place here,
    /// such as that of an error.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, JsonError> {
        let mut told = Told::read(body)?;
        let status = std::mem::take(&mut told.status).text();
        if status == "unknown" {
            let reqid = told.reqid.text();
            return Ok(Some(Self::Unknown { reqid }));
        }
        let head = RunHead {
            reqid: told.reqid.clone().text(),
            script: told.script.clone().text(),
            owner: std::mem::take(&mut told.owner).text(),
            started: std::mem::take(&mut told.started).text(),
        };
        Ok(match status.as_str() {
            "running" => Some(Self::Running(head)),
            "done" => Some(Self::Done {
                head,
                finished: std::mem::take(&mut told.finished).text(),
                reply: told.reply(),
            }),
            _ => None,
        })
    }

    /// The text.
    pub fn render(&self) -> String {
        let mut out = Fields::with_room(16);
        match self {
            Self::Running(head) => head.put("running", &mut out),
            Self::Unknown { reqid } => {
                out.text("status", "unknown").text("reqid", reqid);
            }
            Self::Done {
                head,
                finished,
                reply,
            } => {
                head.put("done", &mut out);
                out.text("finished", finished)
                    .integer("exit", i64::from(reply.exit));
                put_truncation(&mut out, &reply.stdout, &reply.stderr);
                reply.ending.put(&mut out);
                out.text("stdout", &reply.stdout.text)
                    .text("stderr", &reply.stderr.text);
            }
        }
        out.finish()
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
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn args_of_every_kind() {
        let request = RunRequest::parse(
            br#"{"script":"hello","args":[1,true,false,null,1.5,1.0,"x"],"reqid":"r2","async":"0"}"#,
        )
        .unwrap();
        assert_eq!(request.args, ["1", "1", "0", "", "1.5", "1", "x"]);
        assert!(!request.run_async);
        for (body, error) in [
            (r#"{"args":"x","reqid":"r"}"#, "args must be an array"),
            (
                r#"{"args":[[]],"reqid":"r"}"#,
                "args must be an array of strings",
            ),
            (
                r#"{"args":["a\u0000b"],"reqid":"r"}"#,
                "args must not contain NUL",
            ),
            (r#"{"args":{"a":[]},"reqid":"r"}"#, "args must be an array"),
        ] {
            assert_eq!(
                RunRequest::parse(body.as_bytes()),
                Err(RunRequestError::InvalidArgs {
                    reqid: "r".into(),
                    error
                }),
                "{body}"
            );
        }
        assert_eq!(RunRequest::parse(b"null"), Ok(RunRequest::default()));
        for body in ["", "[]", "5", "\"x\"", "{"] {
            let error = RunRequest::parse(body.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("invalid JSON"), "{body}");
        }
    }

    #[test]
    fn truncation_is_marked_only_when_it_happened() {
        let mut reply = RunReply {
            script: "s".into(),
            exit: 3,
            reqid: "r".into(),
            ..RunReply::default()
        };
        assert_eq!(
            reply.render(),
            r#"{"script":"s","exit":3,"stdout":"","stderr":"","reqid":"r"}"#
        );
        reply.stderr.dropped = 7;
        assert!(reply.render().contains(r#""stderr_truncated":7"#));
        assert!(!reply.render().contains("stdout_truncated"));
    }

    proptest! {
        #[test]
        fn run_requests_round_trip(
            script in "[a-z]{0,5}", args in proptest::collection::vec("[^\0]{0,9}", 0..9), run_async: bool,
            time_limit in proptest::option::of(1u32..),
        ) {
            let request = RunRequest { script, args, run_async, time_limit, ..RunRequest::default() };
            prop_assert_eq!(RunRequest::parse(request.render().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn time_limits() {
        let limit = |text: &str| {
            RunRequest::parse(format!("{{\"reqid\":\"r\",\"time_limit\":{text}}}").as_bytes())
                .map(|request| request.time_limit)
        };
        assert_eq!(limit("5"), Ok(Some(5)));
        assert_eq!(limit("\"5\""), Ok(Some(5)));
        assert_eq!(limit("5.0"), Ok(Some(5)));
        assert_eq!(limit("null"), Ok(None));
        for text in [
            "0",
            "-1",
            "1.5",
            "\"\"",
            "true",
            "[5]",
            "{}",
            "4294967296",
            "1e99",
        ] {
            let error = limit(text).unwrap_err();
            assert!(
                error.to_string().starts_with("time_limit must be"),
                "{text}"
            );
            assert!(matches!(error, RunRequestError::InvalidArgs { reqid, .. } if reqid == "r"));
        }
    }

    #[test]
    fn bodies_beyond_the_bounds_are_refused_by_name() {
        let many = format!("{{\"args\":[{}0]}}", "0,".repeat(5000));
        let error = RunRequest::parse(many.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "invalid JSON: too many values");
    }

    #[test]
    fn answers_to_a_run() {
        let ended = RunReply {
            script: "s".into(),
            exit: 126,
            stdout: Output {
                text: "o\n".into(),
                dropped: 9,
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
            r#"{"script":"s","exit":126,"stdout":"o\n","stderr":"","stdout_truncated":9,"signal":9,"oom":true,"time_limit":true,"cancelled":true,"reqid":"r"}"#
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

    #[test]
    fn results_read_back() {
        let head = RunHead {
            reqid: "r".into(),
            script: "s".into(),
            owner: "o".into(),
            started: "t".into(),
        };
        let reply = RunReply {
            script: "s".into(),
            reqid: "r".into(),
            exit: 4,
            stderr: Output {
                text: "e".into(),
                dropped: 1,
            },
            ..RunReply::default()
        };
        let running = ResultReply::Running(head.clone());
        let done = ResultReply::Done {
            head,
            finished: "f".into(),
            reply,
        };
        assert_eq!(
            running.render(),
            r#"{"reqid":"r","status":"running","script":"s","owner":"o","started":"t"}"#
        );
        assert_eq!(
            done.render(),
            r#"{"reqid":"r","status":"done","script":"s","owner":"o","started":"t","finished":"f","exit":4,"stderr_truncated":1,"stdout":"","stderr":"e"}"#
        );
        let unknown = ResultReply::Unknown { reqid: "r".into() };
        assert_eq!(unknown.render(), r#"{"status":"unknown","reqid":"r"}"#);
        for reply in [running, done, unknown] {
            assert_eq!(
                ResultReply::parse(reply.render().as_bytes()),
                Ok(Some(reply))
            );
        }
        assert_eq!(ResultReply::parse(br#"{"status":"error"}"#), Ok(None));
    }
}
