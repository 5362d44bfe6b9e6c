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
    /// The kind of a refusal: `unsupported` when the agent knows no such question.
    pub code: Option<String>,
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
        Self { runs, code: None }
    }

    fn put(&self, object: &mut Members) {
        if let Some(runs) = &self.runs {
            let runs = Json::list(runs.iter().map(RunningScript::object));
            object.set("runs", runs);
        }
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
