//! `discover` (dispatcher.md §9.3): what agents offer; their tags are kept.

use super::auth::Permit;
use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Failure, Fanout, Step, Task, status_line};
use super::log::Log;
use super::ping::{self, Inquiry, status_result};
use crate::fleet::address;
use crate::fleet::{Answer, Call, Control, Identity, Target};
use crate::model::{AppError, Capabilities, HostResult, Outcome};
use crate::model::{MAX_TAG, MAX_TAGS, bounded_tags};
use crate::store::files::registry::Registry;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::Members;
use ctrl_exec_protocol::log_line::Line;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Questions under way.
#[derive(Debug)]
pub struct Discover {
    fanout: Fanout<Capabilities, ()>,
    agents: Registry,
    log: Arc<Log>,
    warnings: Vec<String>,
    /// By registry name, of those that answered.
    tags: HashMap<String, Members>,
    /// Versions of agents of the reference, and of those that were.
    versions: HashMap<String, String>,
    features: HashMap<String, String>,
    kept: bool,
}

/// Begins to ask what agents offer.
///
/// # Errors
/// Unknown agents, or certificates that do not do.
pub fn start(
    dispatcher: &Dispatcher,
    inquiry: &Inquiry,
    _permit: &Permit,
    limits: Limits,
) -> Result<Discover, AppError> {
    let agents = dispatcher.agents();
    let targets = address::resolve(&agents, &inquiry.words, inquiry.port)?;
    let identities = dispatcher.identities(limits.resumption)?;
    let plan = dispatcher.plan(&limits, targets.len())?;
    let calls = targets
        .into_iter()
        .map(|target| {
            let identity = identities.of(&target);
            capabilities_call(target, identity)
        })
        .collect();
    let judge = |call: &Call, answer: Answer| (capabilities_result(call, answer), ());
    Ok(Discover {
        fanout: Fanout::start(dispatcher.engine(), calls, plan, limits.notify, judge),
        agents,
        log: Arc::clone(&dispatcher.log),
        warnings: identities.warning.into_iter().collect(),
        tags: HashMap::new(),
        versions: HashMap::new(),
        features: HashMap::new(),
        kept: false,
    })
}

impl Discover {
    fn ended(&mut self, index: usize, result: &HostResult<Capabilities>) {
        if result.outcome == Outcome::Ok {
            let call = self.fanout.call(index);
            if let Some(version) = ping::noted_version(call, result.reply.version.as_ref()) {
                self.versions.insert(call.target.name.clone(), version);
            }
            let told = result.more.texts("features");
            if let Some(features) = ping::noted_features(result.outcome, &told) {
                self.features.insert(call.target.name.clone(), features);
            }
            if let Some(tags) = &result.reply.tags {
                let (tags, dropped) = bounded_tags(tags);
                if dropped > 0 {
                    let line = Line::new("tags-dropped")
                        .field("AGENT", &result.host)
                        .field("COUNT", dropped);
                    self.log.log(Level::Warning, &line);
                    self.warnings.push(format!(
                        "{}: {dropped} tag(s) not kept: at most {MAX_TAGS} are, of at most \
                         {MAX_TAG} bytes",
                        result.host
                    ));
                }
                self.tags.insert(result.host.clone(), tags);
            }
        }
        let line = Line::new("capabilities")
            .field("TARGET", &result.target)
            .field("RTT", result.rtt_text());
        let scripts = result.reply.scripts.as_ref().map_or(0, Vec::len);
        match result.error() {
            None => self.log.log(Level::Info, &line.field("SCRIPTS", scripts)),
            Some(error) => self.log.log(Level::Err, &line.field("ERROR", error)),
        }
    }

    /// Only changed records are written. Those who may only read the registry still see answers.
    fn keep_tags(&mut self) {
        if std::mem::replace(&mut self.kept, true)
            || (self.tags.is_empty() && self.versions.is_empty() && self.features.is_empty())
        {
            return;
        }
        let told = self.tags.keys().chain(self.versions.keys());
        let names: HashSet<&String> = told.chain(self.features.keys()).collect();
        let names: Vec<&String> = names.into_iter().collect();
        let written = self.agents.update_many(&names, |record| {
            let mut changed = false;
            if let Some(version) = self.versions.get(record.name()) {
                changed = record.agent_version.as_ref() != Some(version);
                record.agent_version = Some(version.clone());
            }
            if let Some(features) = self.features.get(record.name()) {
                changed |= record.features.as_ref() != Some(features);
                record.features = Some(features.clone());
            }
            let Some(tags) = self.tags.get(record.name()) else {
                return changed;
            };
            if record.tags.as_ref() != Some(tags) {
                record.tags = Some(tags.clone());
                changed = true;
            }
            changed
        });
        if let Err(error) = written {
            self.warnings.push(format!("tags were not cached: {error}"));
        }
    }
}

impl Task for Discover {
    type Reply = Capabilities;

    fn next(&mut self, timeout: Duration) -> Option<Event<Capabilities>> {
        let event = match self.fanout.next(timeout) {
            None => None,
            Some(Step::Begun(name)) => Some(Event::Begun(name)),
            Some(Step::Output(host, piece)) => Some(Event::Output { host, piece }),
            Some(Step::Ended(index, result, ())) => {
                self.ended(index, &result);
                Some(Event::Ended(Box::new(result)))
            }
        };
        if self.fanout.left() == 0 {
            self.keep_tags();
        }
        event
    }

    fn left(&self) -> usize {
        self.fanout.left()
    }

    fn total(&self) -> usize {
        self.fanout.calls().len()
    }

    fn control(&self) -> Control {
        self.fanout.control()
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The question what an agent offers.
pub fn capabilities_call(target: Target, identity: Identity) -> Call {
    Call::get(target, identity, "/capabilities")
}

/// Its result. Other than for ping, the reference keeps the raw status line of a 403.
pub fn capabilities_result(call: &Call, answer: Answer) -> HostResult<Capabilities> {
    let judge = |reply: &Capabilities, _| {
        if reply.status.as_deref() == Some("ok") {
            Outcome::Ok
        } else {
            Outcome::Failed
        }
    };
    status_result(call, answer, judge, |response| match response.status {
        403 => Failure::refused(status_line(response)),
        _ => Failure::answer(status_line(response)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_of, call};
    use super::*;

    #[test]
    fn answers_and_refusals() {
        let denied = capabilities_result(&call(), answer_of(403, r#"{"error":"forbidden"}"#));
        assert_eq!(denied.error(), Some("403 Forbidden"));
        let body = r#"{"status":"ok","host":"vm","tags":{"a":"b","n":1},"scripts":[{"name":"s",
            "path":"/s","executable":1,"schema":{"x":[1.0]}},{"name":"t","executable":0}],"z":null}"#;
        let result = capabilities_result(&call(), answer_of(200, body));
        let scripts = result.reply.scripts.as_ref().unwrap();
        assert!(scripts[0].executable && !scripts[1].executable);
        assert_eq!(
            result.to_json(),
            r#"{"host":"vm","outcome":"ok","rtt":"5ms","scripts":[{"executable":1,"name":"s","path":"/s","schema":{"x":[1.0]}},{"executable":0,"name":"t"}],"status":"ok","tags":{"a":"b","n":1},"z":null}"#
        );
    }
}
