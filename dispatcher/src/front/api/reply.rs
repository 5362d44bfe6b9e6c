//! Answers (api.md §4): their bodies, and what they look like on the wire.

use crate::model::{AppError, Kind};
use ctrl_exec_protocol::http::{HttpError, ResponseHead};
use ctrl_exec_protocol::json::{Json, Members};

/// The media type of almost every answer.
pub const JSON: &str = "application/json";

/// One answer.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The type of the body.
    pub media: &'static str,
    /// Further header lines.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer of this media type.
    pub fn new(status: u16, media: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            media,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A JSON object.
    pub fn json(status: u16, body: &Members) -> Self {
        Self::new(status, JSON, body.render())
    }

    /// A JSON object with `"ok":true` before its other members.
    pub fn ok(mut body: Members) -> Self {
        body.set("ok", Json::flag(true));
        Self::json(200, &body)
    }

    /// An error of a class, with what exactly is wrong.
    pub fn error(status: u16, class: &str, detail: impl AsRef<str>) -> Self {
        let mut body = Members::of([("ok", Json::flag(false)), ("error", Json::text(class))]);
        let detail = detail.as_ref();
        if !detail.is_empty() {
            body.set("detail", Json::text(detail));
        }
        Self::json(status, &body)
    }

    /// What was asked makes no sense.
    pub fn bad(detail: impl AsRef<str>) -> Self {
        Self::error(400, "bad request", detail)
    }

    /// Something is not there.
    pub fn not_found(detail: impl AsRef<str>) -> Self {
        Self::error(404, "not found", detail)
    }

    /// Words that name no registered agent.
    pub fn unknown_agents(words: &[String]) -> Self {
        let detail = format!("not a registered agent: {}", words.join(", "));
        Self::error(404, "unknown agent", detail)
    }

    /// A denial (api.md §5.5).
    pub fn denied(error: &AppError, generic: bool) -> Self {
        let mut body = Members::of([("ok", Json::flag(false))]);
        if generic {
            body.set("error", Json::text("forbidden"));
        } else {
            body.set("error", Json::text(&*error.message));
            let code = error.code.map_or(1, i64::from);
            body.set("code", Json::integer(code));
        }
        Self::json(403, &body)
    }

    /// The answer to an error of a task.
    pub fn of(error: &AppError, generic_denials: bool) -> Self {
        match error.kind {
            Kind::Denied => Self::denied(error, generic_denials),
            Kind::Locked => Self::json(
                409,
                &Members::of([
                    ("ok", Json::flag(false)),
                    ("error", Json::text("locked")),
                    ("code", Json::integer(4)),
                    ("conflicts", Json::texts(&error.conflicts)),
                ]),
            ),
            Kind::Conflict | Kind::Ended => Self::error(409, "conflict", &error.message),
            Kind::NotFound if !error.unknown.is_empty() => Self::unknown_agents(&error.unknown),
            Kind::NotFound => Self::not_found(&error.message),
            Kind::Usage => Self::bad(&error.message),
            Kind::Setup | Kind::System => Self::error(500, "server error", &error.message),
        }
    }

    /// The answer to what is no acceptable request.
    pub fn of_http(error: HttpError) -> Self {
        match error {
            HttpError::BodyTooLarge => {
                Self::error(413, "payload too large", "body exceeds 1048576 bytes")
            }
            HttpError::TooManyHeaders | HttpError::HeadTooLarge => {
                let detail = if error == HttpError::HeadTooLarge {
                    "head exceeds 16384 bytes"
                } else {
                    "more than 32 header lines"
                };
                Self::error(431, "request header fields too large", detail)
            }
            HttpError::Overloaded => Self::error(503, "service unavailable", error.message()),
            other => Self::bad(other.message()),
        }
    }

    /// Too many requests are worked on.
    pub fn overloaded() -> Self {
        Self::error(503, "service unavailable", "too many concurrent requests")
    }

    /// The answer as bytes. `headless`: HEAD was asked, so its body is left out.
    pub fn render(&self, keep_alive: bool, headless: bool) -> Vec<u8> {
        let headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let head = ResponseHead {
            content_type: Some(self.media),
            headers: &headers,
            keep_alive,
            ..ResponseHead::new(self.status)
        };
        if headless {
            head.render(Some(self.body.len()))
        } else {
            head.render_with(&self.body)
        }
    }
}
