//! Requests to an agent and its answers (agent.md §2, dispatcher.md §9).
//!
//! Application failures travel as HTTP 200 with an `error` member, so every answer here is a body,
//! and its status is the caller's business.

use crate::json::{self, Bounds, JsonError, Object, Value};
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
}

/// Why a run request is refused; the text is the `error` member on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RunRequestError {
    /// The body is not a JSON object.
    InvalidJson(JsonError),
    /// `args` is something else than an array of scalars.
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

impl RunRequest {
    /// Reads a body. `null` counts as an empty object, as it does for the reference.
    pub fn parse(body: &[u8]) -> Result<Self, RunRequestError> {
        let object = match json::parse_value(body, &Bounds::REQUEST) {
            Ok(Value::Object(object)) => object,
            Ok(Value::Null) => Object::new(),
            Ok(_) => return Err(RunRequestError::InvalidJson(JsonError::NotAnObject)),
            Err(error) => return Err(RunRequestError::InvalidJson(error)),
        };
        let reqid = json::text_of(&object, "reqid");
        let args = match object.get("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => match json::scalar_texts(items) {
                Some(args) => args,
                None => {
                    let error = "args must be an array of strings";
                    return Err(RunRequestError::InvalidArgs { reqid, error });
                }
            },
            Some(_) => {
                let error = "args must be an array";
                return Err(RunRequestError::InvalidArgs { reqid, error });
            }
        };
        if args.iter().any(|arg| arg.contains('\0')) {
            let error = "args must not contain NUL";
            return Err(RunRequestError::InvalidArgs { reqid, error });
        }
        Ok(Self {
            script: json::text_of(&object, "script"),
            args,
            reqid,
            username: json::text_of(&object, "username"),
            token: json::text_of(&object, "token"),
            run_async: json::truthy(&object, "async"),
        })
    }

    /// The body.
    pub fn render(&self) -> String {
        let mut out = json::object();
        out.str("script", &self.script)
            .strings("args", &self.args)
            .str("reqid", &self.reqid)
            .str("username", &self.username)
            .str("token", &self.token);
        if self.run_async {
            out.bool("async", true);
        }
        out.finish()
    }
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
        json::object()
            .str("script", &self.request.script)
            .strings("args", &self.request.args)
            .str("reqid", &self.request.reqid)
            .str("peer_ip", self.peer_ip)
            .str("username", &self.request.username)
            .str("token", &self.request.token)
            .str("dispatcher", self.dispatcher)
            .str("timestamp", self.timestamp)
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
    /// Request id.
    pub reqid: String,
}

impl RunReply {
    /// The body of the synchronous answer.
    pub fn render(&self) -> String {
        let mut out = json::object();
        out.str("script", &self.script)
            .int("exit", i64::from(self.exit))
            .str("stdout", &self.stdout.text)
            .str("stderr", &self.stderr.text);
        add_truncation(&mut out, &self.stdout, &self.stderr);
        out.str("reqid", &self.reqid).finish()
    }
}

/// Adds `stdout_truncated` and `stderr_truncated` (bytes dropped) where something was dropped.
fn add_truncation(out: &mut json::Writer, stdout: &Output, stderr: &Output) {
    for (key, stream) in [("stdout_truncated", stdout), ("stderr_truncated", stderr)] {
        if stream.dropped > 0 {
            out.int(key, i64::try_from(stream.dropped).unwrap_or(i64::MAX));
        }
    }
}

/// The body that refuses a run: `exit` -1 and an `error`.
pub fn run_refusal(script: Option<&str>, error: &str, reqid: Option<&str>) -> String {
    json::object()
        .opt_str("script", script)
        .int("exit", -1)
        .str("error", error)
        .opt_str("reqid", reqid)
        .finish()
}

/// `POST /ping` answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PingReply {
    /// Name of the agent's host.
    pub host: String,
    /// Version of the agent.
    pub version: String,
    /// notAfter of the agent's certificate in OpenSSL form, or `unknown`.
    pub expiry: String,
    /// Whether a renewed certificate waits for adoption.
    pub staged: bool,
    /// Echoed.
    pub reqid: String,
}

impl PingReply {
    /// The body.
    pub fn render(&self) -> String {
        json::object()
            .str("status", "ok")
            .str("host", &self.host)
            .str("version", &self.version)
            .str("expiry", &self.expiry)
            .bool("staged", self.staged)
            .str("reqid", &self.reqid)
            .finish()
    }
}

/// `POST /rotate-serial`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotateRequest {
    /// Serial as received.
    pub serial: String,
    /// `add` or `remove`, not yet checked.
    pub action: String,
    /// Token for the hook.
    pub token: String,
}

impl RotateRequest {
    /// Reads a body; what is not a JSON object counts as an empty one.
    pub fn parse(body: &[u8]) -> Self {
        let object = json::parse_object(body, &Bounds::REQUEST).unwrap_or_default();
        let action = match object.get("action") {
            None | Some(Value::Null) => "add".to_owned(),
            Some(_) => json::text_of(&object, "action"),
        };
        Self {
            serial: json::text_of(&object, "serial"),
            action,
            token: json::text_of(&object, "token"),
        }
    }

    /// The body.
    pub fn render(&self) -> String {
        json::object()
            .str("serial", &self.serial)
            .str("action", &self.action)
            .finish()
    }
}

/// The `reqid` of a body that may be anything; empty when there is none.
pub fn reqid_of(body: &[u8]) -> String {
    json::parse_object(body, &Bounds::REQUEST)
        .map(|object| json::text_of(&object, "reqid"))
        .unwrap_or_default()
}

/// The body of a failed request: `{"error":…}`.
pub fn error_body(error: &str) -> String {
    json::object().str("error", error).finish()
}

/// The body of a refused caller: `{"error":…,"status":"forbidden"}`.
pub fn forbidden_body(error: &str) -> String {
    json::object()
        .str("error", error)
        .str("status", "forbidden")
        .finish()
}

/// The body of a failed operation: `{"status":"error","error":…}`.
pub fn status_error(error: &str) -> String {
    json::object()
        .str("status", "error")
        .str("error", error)
        .finish()
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
    fn rotate_defaults() {
        assert_eq!(RotateRequest::parse(b"{nope").action, "add");
        let request = RotateRequest::parse(br#"{"serial":12,"action":""}"#);
        assert_eq!(
            (request.serial.as_str(), request.action.as_str()),
            ("12", "")
        );
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
        ) {
            let request = RunRequest { script, args, run_async, ..RunRequest::default() };
            prop_assert_eq!(RunRequest::parse(request.render().as_bytes()), Ok(request));
        }
    }
}
