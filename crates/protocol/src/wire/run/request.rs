//! What is asked for, and what the script is told of it.

use crate::base64;
use crate::json::{self, Bounds, Fields, JsonError, Scalar, Scalars};
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
    /// Whether output is wanted while it comes ([`live`](crate::live)). The reference ignores it.
    pub stream: bool,
    /// What the script is to read behind its context ([`RUN_INPUT`]); none: only that.
    pub input: Option<Vec<u8>>,
}

/// Most bytes of [`RunRequest::input`].
pub const MAX_INPUT: usize = 512 * 1024;

/// The path of a run that has [`RunRequest::input`], in place of `/run`: agents that do not know it
/// answer 404, where they would run the script without its input.
pub const RUN_INPUT: &str = "/run-input";

/// Why a run request is refused; the text is the `error` member on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RunRequestError {
    /// The body is not a JSON object.
    InvalidJson(JsonError),
    /// `args` is something else than an array of scalars, `time_limit` no time, or `stdin_data` no
    /// data.
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
    stream: Scalar,
    stdin_data: Scalar,
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
        let checked = texts(asked.args)
            .and_then(|args| Ok((args, limit(&asked.time_limit)?, input(asked.stdin_data)?)));
        let (args, time_limit, input) = match checked {
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
            stream: asked.stream.is_true(),
            input,
        })
    }

    /// The body.
    pub fn render(&self) -> String {
        let input = self.input.as_deref().map(base64::encode);
        Fields::with_room(9)
            .text("script", &self.script)
            .texts("args", &self.args)
            .text("reqid", &self.reqid)
            .text("username", &self.username)
            .text("token", &self.token)
            .flag_if("async", self.run_async)
            .count_if("time_limit", self.time_limit.map(u64::from))
            .flag_if("stream", self.stream)
            .text_if("stdin_data", input.as_deref())
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

fn input(data: Scalar) -> Result<Option<Vec<u8>>, &'static str> {
    if data.is_null() {
        return Ok(None);
    }
    let bytes = data.into_string().and_then(|text| base64::decode(&text));
    match bytes {
        Some(bytes) if bytes.len() <= MAX_INPUT => Ok(Some(bytes)),
        Some(_) => Err("stdin_data has more than 524288 bytes"),
        None => Err("stdin_data must be text in base64"),
    }
}

/// What a script reads on its standard input, without a newline (agent.md §4.1). Where the request
/// has input, `stdin_bytes` says how much, and it follows after a newline.
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
        let input = self.request.input.as_ref();
        Fields::with_room(9)
            .text("script", &self.request.script)
            .texts("args", &self.request.args)
            .text("reqid", &self.request.reqid)
            .text("peer_ip", self.peer_ip)
            .text("username", &self.request.username)
            .text("token", &self.request.token)
            .text("dispatcher", self.dispatcher)
            .text("timestamp", self.timestamp)
            .count_if("stdin_bytes", input.map(|input| input.len() as u64))
            .finish()
    }
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

    proptest! {
        #[test]
        fn run_requests_round_trip(
            script in "[a-z]{0,5}", args in proptest::collection::vec("[^\0]{0,9}", 0..9), run_async: bool,
            time_limit in proptest::option::of(1u32..), stream: bool,
            input in proptest::option::of(proptest::collection::vec(proptest::num::u8::ANY, 0..20)),
        ) {
            let request = RunRequest {
                script, args, run_async, time_limit, stream, input, ..RunRequest::default()
            };
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
    fn input_is_bounded_and_follows_the_context() {
        let parse = |data: &str| {
            let body = format!("{{\"reqid\":\"r\",\"stdin_data\":{data}}}");
            RunRequest::parse(body.as_bytes()).map_err(|error| error.to_string())
        };
        assert_eq!(parse("null").unwrap().input, None);
        assert_eq!(parse("\"\"").unwrap().input, Some(Vec::new()));
        let request = parse("\"AP8K\"").unwrap();
        assert_eq!(request.input.as_deref(), Some(&b"\0\xff\n"[..]));
        let context = ScriptContext {
            request: &request,
            peer_ip: "::1",
            dispatcher: "d",
            timestamp: "t",
        };
        assert!(
            context
                .render()
                .ends_with(r#""timestamp":"t","stdin_bytes":3}"#)
        );
        for bad in ["5", "[]", "\"A\"", "\"A-==\"", "true"] {
            assert_eq!(parse(bad).unwrap_err(), "stdin_data must be text in base64");
        }
        let most = format!("\"{}\"", base64::encode(&vec![7; MAX_INPUT]));
        assert_eq!(parse(&most).unwrap().input.unwrap().len(), MAX_INPUT);
        let more = format!("\"{}\"", base64::encode(&vec![7; MAX_INPUT + 1]));
        assert_eq!(
            parse(&more).unwrap_err(),
            "stdin_data has more than 524288 bytes"
        );
    }

    #[test]
    fn bodies_beyond_the_bounds_are_refused_by_name() {
        let many = format!("{{\"args\":[{}0]}}", "0,".repeat(5000));
        let error = RunRequest::parse(many.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "invalid JSON: too many values");
    }
}
