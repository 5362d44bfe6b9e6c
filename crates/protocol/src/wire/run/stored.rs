//! The result of a run that nobody waited for, as it is stored and sent.

use super::reply::{RunReply, put_truncation};
use super::told::Told;
use crate::json::{Fields, JsonError};

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
        let mut out = Fields::with_room(18);
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

#[cfg(test)]
mod tests {
    use super::super::reply::Output;
    use super::*;

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
                gap_at: 1,
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
            r#"{"reqid":"r","status":"done","script":"s","owner":"o","started":"t","finished":"f","exit":4,"stderr_truncated":1,"stderr_gap":1,"stdout":"","stderr":"e"}"#
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
