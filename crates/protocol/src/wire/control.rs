//! `GET /runs` and `POST /cancel`: a dispatcher's own runs that are under way. The reference answers
//! both with 404.

use crate::json::{self, Bounds, Fields, JsonError, Scalar, Scalars};
use miniserde::Deserialize;

/// What runs for the dispatcher that asks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunsReply {
    /// Name of the agent's host.
    pub host: String,
    /// The runs.
    pub runs: Vec<RunningScript>,
    /// Since how many seconds the agent serves. It does not know of the scripts that an agent before
    /// it has started and that go on.
    pub serving: Option<u64>,
    /// Since how many seconds its host is up.
    pub up: Option<u64>,
}

/// A run that has not ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunningScript {
    /// Request id.
    pub reqid: String,
    /// Script name.
    pub script: String,
    /// For how many seconds it has run.
    pub seconds: u64,
    /// Whether it runs detached.
    pub run_async: bool,
}

#[derive(Deserialize)]
struct ToldRuns {
    host: Scalar,
    runs: Vec<ToldRun>,
    serving: Scalar,
    up: Scalar,
}

#[derive(Deserialize)]
struct ToldRun {
    reqid: Scalar,
    script: Scalar,
    seconds: Scalar,
    #[serde(rename = "async")]
    run_async: Scalar,
}

impl RunsReply {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// It is not of this form.
    pub fn parse(body: &[u8]) -> Result<Self, JsonError> {
        let told: ToldRuns = json::read_object(body, &Bounds::ANSWER)?;
        let runs = told.runs.into_iter().map(|run| RunningScript {
            reqid: run.reqid.text(),
            script: run.script.text(),
            seconds: run.seconds.count().unwrap_or_default(),
            run_async: run.run_async.is_true(),
        });
        Ok(Self {
            host: told.host.text(),
            runs: runs.collect(),
            serving: told.serving.count(),
            up: told.up.count(),
        })
    }

    /// The body.
    pub fn render(&self) -> String {
        let mut runs = String::from("[");
        for run in &self.runs {
            if runs.len() > 1 {
                runs.push(',');
            }
            let mut fields = Fields::with_room(4);
            fields
                .text("reqid", &run.reqid)
                .text("script", &run.script)
                .count_if("seconds", Some(run.seconds))
                .flag("async", run.run_async);
            runs.push_str(&fields.finish());
        }
        runs.push(']');
        Fields::with_room(5)
            .text("status", "ok")
            .text("host", &self.host)
            .raw("runs", &runs)
            .count_if("serving", self.serving)
            .count_if("up", self.up)
            .finish()
    }
}

/// Which runs are to be ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CancelRequest {
    /// The one with this id, not yet checked.
    One(String),
    /// All of the caller.
    All,
}

#[derive(Deserialize)]
struct AskedCancel {
    reqid: Scalar,
    all: Scalar,
}

impl CancelRequest {
    /// Reads a body. An id and `all` together are refused: either may be what was meant.
    ///
    /// # Errors
    /// The text of the `error` member that refuses it.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let asked: AskedCancel =
            json::read_object(body, &Bounds::REQUEST).map_err(|_| "invalid JSON")?;
        let all = asked.all.is_true();
        match asked.reqid.into_text() {
            Some(reqid) if !reqid.is_empty() && !all => Ok(Self::One(reqid)),
            Some(reqid) if reqid.is_empty() && all => Ok(Self::All),
            _ => Err("either reqid or all is needed"),
        }
    }

    /// The body.
    pub fn render(&self) -> String {
        match self {
            Self::One(reqid) => Fields::with_room(1).text("reqid", reqid).finish(),
            Self::All => Fields::with_room(1).flag("all", true).finish(),
        }
    }
}

/// Which runs are being ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CancelReply {
    /// Their request ids.
    pub cancelled: Vec<String>,
}

#[derive(Deserialize)]
struct ToldCancel {
    cancelled: Scalars,
}

impl CancelReply {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, JsonError> {
        let told: ToldCancel = json::read_object(body, &Bounds::ANSWER)?;
        let cancelled = match told.cancelled {
            Scalars::List(ids) => ids.into_iter().map(Scalar::text).collect(),
            Scalars::Absent | Scalars::NotAnArray => Vec::new(),
        };
        Ok(Self { cancelled })
    }

    /// The body.
    pub fn render(&self) -> String {
        Fields::with_room(2)
            .text("status", "ok")
            .texts("cancelled", &self.cancelled)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_read_back() {
        let reply = RunsReply {
            host: "h".into(),
            runs: vec![RunningScript {
                reqid: "r".into(),
                script: "s".into(),
                seconds: 14,
                run_async: true,
            }],
            serving: Some(7),
            up: Some(70),
        };
        assert_eq!(
            reply.render(),
            r#"{"status":"ok","host":"h","runs":[{"reqid":"r","script":"s","seconds":14,"async":true}],"serving":7,"up":70}"#
        );
        assert_eq!(RunsReply::parse(reply.render().as_bytes()), Ok(reply));
        let none = RunsReply::default();
        assert_eq!(RunsReply::parse(none.render().as_bytes()), Ok(none));
        for body in ["{}", "[]", r#"{"runs":5}"#, r#"{"runs":[5]}"#] {
            assert!(RunsReply::parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn one_or_all_is_cancelled_but_never_by_guessing() {
        for request in [CancelRequest::One("r".into()), CancelRequest::All] {
            assert_eq!(
                CancelRequest::parse(request.render().as_bytes()),
                Ok(request)
            );
        }
        for body in [
            "",
            "[]",
            "{}",
            r#"{"reqid":""}"#,
            r#"{"reqid":[]}"#,
            r#"{"all":false}"#,
            r#"{"all":0}"#,
            r#"{"reqid":"r","all":true}"#,
            r#"{"reqid":{},"all":true}"#,
        ] {
            assert!(CancelRequest::parse(body.as_bytes()).is_err(), "{body}");
        }
        let reply = CancelReply {
            cancelled: vec!["a".into(), "b".into()],
        };
        assert_eq!(reply.render(), r#"{"status":"ok","cancelled":["a","b"]}"#);
        assert_eq!(CancelReply::parse(reply.render().as_bytes()), Ok(reply));
    }
}
