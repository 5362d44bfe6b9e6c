//! The answers about runs that are under way: what runs, and what is being ended.

use super::result::Reply;
use ctrl_exec_protocol::json::{Json, Members, Raw};

/// A run that an agent says is under way.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunningScript {
    /// The run's request id.
    pub reqid: String,
    /// The script.
    pub script: String,
    /// For how many seconds it has run.
    pub seconds: i64,
    /// Whether nobody waits for it.
    pub run_async: bool,
}

/// The answer to `GET /runs`: this dispatcher's own runs on that agent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Running {
    /// What runs; `None` when the agent did not say.
    pub runs: Option<Vec<RunningScript>>,
    /// Since how many seconds the agent serves; of what an agent before it has started it knows
    /// nothing.
    pub serving: Option<i64>,
    /// Since how many seconds its host is up.
    pub up: Option<i64>,
    /// The kind of a refusal: `unsupported` when the agent knows no such question.
    pub code: Option<String>,
}

impl Running {
    /// Whether this answer shows that a run is over that began at `since`. Given are also the times
    /// before which the question was not asked, and after which the answer was not given; all in
    /// seconds since 1970.
    ///
    /// An agent that was started later than the run knows nothing of a script that an agent before it
    /// has started; a host that was started later has no such script.
    pub fn shows_end_of(&self, reqid: &str, since: i64, asked: i64, answered: i64) -> bool {
        let Some(runs) = &self.runs else {
            return false;
        };
        if runs.iter().any(|run| run.reqid == reqid) {
            return false;
        }
        let sane = |seconds: &i64| (0..i64::from(u32::MAX)).contains(seconds);
        let began = self.serving.filter(sane).map(|serving| answered - serving);
        let booted = self.up.filter(sane).map(|up| asked - up - 2);
        began.is_some_and(|began| began < since) || booted.is_some_and(|booted| booted > since)
    }
}

impl RunningScript {
    fn of(object: &Members) -> Self {
        let text = |key| object.text(key).map(std::borrow::Cow::into_owned);
        Self {
            reqid: text("reqid").unwrap_or_default(),
            script: text("script").unwrap_or_default(),
            seconds: object.integer("seconds").unwrap_or_default(),
            run_async: object.is_true("async"),
        }
    }

    fn object(&self) -> Members {
        Members::of([
            ("reqid", Json::text(&*self.reqid)),
            ("script", Json::text(&*self.script)),
            ("seconds", Json::integer(self.seconds)),
            ("async", Json::flag(self.run_async)),
        ])
    }
}

impl Reply for Running {
    fn take(answer: &mut Members) -> Self {
        let runs = answer.remove("runs");
        let runs = runs.filter(|runs| runs.raw().is_array()).map(|runs| {
            let objects = runs.raw().items().filter_map(Members::from_raw);
            objects.map(|run| RunningScript::of(&run)).collect()
        });
        answer.remove("status");
        Self {
            runs,
            serving: answer.take_integer("serving"),
            up: answer.take_integer("up"),
            code: None,
        }
    }

    fn put(&self, object: &mut Members) {
        if let Some(runs) = &self.runs {
            let runs = Json::list(runs.iter().map(RunningScript::object));
            object.set("runs", runs);
        }
        object.set_integer("serving", self.serving);
        object.set_integer("up", self.up);
        object.set_text("code", self.code.as_deref());
    }
}

/// The answer to `POST /cancel`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cancelled {
    /// Request ids of the runs that the agent ends; `None` when it did not say.
    pub cancelled: Option<Vec<String>>,
    /// The kind of a refusal: `unsupported` when the agent knows no such request, `no-such-run`.
    pub code: Option<String>,
}

impl Reply for Cancelled {
    fn take(answer: &mut Members) -> Self {
        let is_list = answer.get("cancelled").is_some_and(Raw::is_array);
        let cancelled = is_list.then(|| answer.texts("cancelled"));
        answer.remove("cancelled");
        answer.remove("status");
        Self {
            cancelled,
            code: None,
        }
    }

    fn put(&self, object: &mut Members) {
        if let Some(ids) = &self.cancelled {
            object.set("cancelled", Json::texts(ids));
        }
        object.set_text("code", self.code.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_shows() {
        let told = |serving, up| Running {
            runs: Some(vec![RunningScript {
                reqid: "on".into(),
                ..RunningScript::default()
            }]),
            serving,
            up,
            code: None,
        };
        let shows = |reply: Running, reqid: &str| reply.shows_end_of(reqid, 1000, 1100, 1101);
        assert!(shows(told(Some(500), Some(900)), "r"));
        assert!(!shows(told(Some(500), Some(900)), "on"), "it is listed");
        assert!(
            !shows(told(Some(50), Some(900)), "r"),
            "an agent before this one started it"
        );
        assert!(
            shows(told(Some(50), Some(60)), "r"),
            "the host was restarted"
        );
        assert!(
            !shows(told(Some(101), Some(900)), "r"),
            "in the same second"
        );
        assert!(!shows(told(None, None), "r"));
        assert!(!shows(told(Some(-5), Some(i64::MIN)), "r"));
        let silent = Running {
            runs: None,
            ..told(Some(500), Some(900))
        };
        assert!(!shows(silent, "r"));
    }
}
