//! What came of one call to one host.

use super::outcome::{Outcome, Phase, Problem};
use ctrl_exec_protocol::json::{Json, Members};
use std::time::Duration;

/// What an agent answered, read into members of known meaning.
pub trait Reply: Default {
    /// Takes the members it knows out of an answer; those of another form than expected stay.
    fn take(answer: &mut Members) -> Self;

    /// What stands in for the answer where there is none.
    fn missing() -> Self {
        Self::default()
    }

    /// Puts them back, for JSON.
    fn put(&self, object: &mut Members);
}

/// What came of one call to one host.
#[derive(Clone, Debug)]
pub struct HostResult<T> {
    /// Registry name.
    pub host: String,
    /// Where the call went, as `address:port`; not in JSON.
    pub target: String,
    /// The agent's own name, where it is another.
    pub reported: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not succeed.
    pub problem: Option<Problem>,
    /// From the first step to the last byte.
    pub rtt: Duration,
    /// What the agent answered.
    pub reply: T,
    /// Members of the answer that this version does not know, as they came.
    pub more: Members,
}

impl<T: Reply> HostResult<T> {
    /// What went wrong, in words, or nothing.
    pub fn error(&self) -> Option<&str> {
        self.problem.as_ref().map(|problem| problem.error.as_str())
    }

    /// The result as an object: members of the reference, and `outcome` and `phase`.
    pub fn object(&self) -> Members {
        let mut object = self.more.clone();
        self.reply.put(&mut object);
        object.set("host", Json::text(&*self.host));
        object.set("rtt", Json::text(self.rtt_text()));
        object.set("outcome", Json::text(self.outcome.word()));
        if let Some(reported) = &self.reported {
            object.set("reported_hostname", Json::text(&**reported));
        }
        if let Some(problem) = &self.problem {
            object.set("error", Json::text(&*problem.error));
            if let Some(phase) = problem.phase {
                object.set("phase", Json::text(phase.word()));
            }
        }
        object
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        self.object().render()
    }

    /// Reads what [`object`](Self::object) made, also without `outcome`, as release 0.12.3 keeps
    /// it.
    pub fn from_object(mut object: Members) -> Self {
        let mut text = |key: &str| object.take_text(key);
        let host = text("host").unwrap_or_default();
        let rtt = text("rtt").and_then(|rtt| rtt.strip_suffix("ms")?.parse().ok());
        let outcome = text("outcome").and_then(|word| Outcome::parse(&word));
        let reported = text("reported_hostname");
        let phase = text("phase").and_then(|word| Phase::parse(&word));
        let problem = text("error").map(|error| Problem { error, phase });
        let reply = T::take(&mut object);
        Self {
            host,
            target: String::new(),
            reported,
            outcome: outcome.unwrap_or(Outcome::Failed),
            problem,
            rtt: Duration::from_millis(rtt.unwrap_or_default()),
            reply,
            more: object,
        }
    }

    /// `42ms`.
    pub fn rtt_text(&self) -> String {
        format!("{}ms", (self.rtt.as_micros() + 500) / 1000)
    }

    /// The results as an array.
    pub fn array(results: &[Self]) -> Json {
        Json::list(results.iter().map(Self::object))
    }
}
