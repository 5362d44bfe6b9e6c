//! The answers about runs that are under way: what runs, and what is being ended.

use super::json::{self, Object, Value};
use super::result::Reply;

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
    fn of(object: &Object) -> Self {
        let text = |key| json::text(object, key).map(std::borrow::Cow::into_owned);
        Self {
            reqid: text("reqid").unwrap_or_default(),
            script: text("script").unwrap_or_default(),
            seconds: json::integer(object, "seconds").unwrap_or_default(),
            run_async: json::truthy(object, "async"),
        }
    }

    fn object(&self) -> Object {
        json::object([
            ("reqid", json::string(&*self.reqid)),
            ("script", json::string(&*self.script)),
            ("seconds", json::int(self.seconds)),
            ("async", Value::Bool(self.run_async)),
        ])
    }
}

impl Reply for Running {
    fn take(answer: &mut Object) -> Self {
        let runs = match answer.remove("runs") {
            Some(Value::Array(items)) => Some(
                items
                    .iter()
                    .filter_map(|item| match item {
                        Value::Object(run) => Some(RunningScript::of(run)),
                        _ => None,
                    })
                    .collect(),
            ),
            _ => None,
        };
        answer.remove("status");
        Self { runs, code: None }
    }

    fn put(&self, object: &mut Object) {
        if let Some(runs) = &self.runs {
            let runs = json::objects(runs.iter().map(RunningScript::object));
            object.insert("runs".to_owned(), runs);
        }
        json::put_text(object, "code", self.code.as_deref());
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
    fn take(answer: &mut Object) -> Self {
        let is_list = matches!(answer.get("cancelled"), Some(Value::Array(_)));
        let cancelled = is_list.then(|| json::texts_of(answer, "cancelled"));
        answer.remove("cancelled");
        answer.remove("status");
        Self {
            cancelled,
            code: None,
        }
    }

    fn put(&self, object: &mut Object) {
        if let Some(ids) = &self.cancelled {
            object.insert("cancelled".to_owned(), json::strings(ids));
        }
        json::put_text(object, "code", self.code.as_deref());
    }
}
