//! What agents answer, made to fit the document. Members that this version does not know pass
//! through; of those that it does, what has another form than the document says is left out.

use crate::model::{Cancelled, Capabilities, HostResult, Pong, RunEnd, Submission};
use ctrl_exec_protocol::json::{Members, Raw, Scalar};

/// Members that the answers of agents may have, whatever was asked. What has the right form was
/// taken out of the rest.
const KNOWN: [&str; 22] = [
    "status",
    "version",
    "expiry",
    "reqid",
    "script",
    "exit",
    "stdout",
    "stderr",
    "stdout_truncated",
    "stderr_truncated",
    "signal",
    "oom",
    "time_limit",
    "cancelled",
    "code",
    "error",
    "host",
    "outcome",
    "phase",
    "rtt",
    "tags",
    "scripts",
];

/// What an agent did not say at all.
const NOTHING: &str = "error";

/// One that can be made to fit.
pub trait Tidy {
    /// Makes it fit.
    fn tidy(&mut self);
}

impl Tidy for HostResult<RunEnd> {
    fn tidy(&mut self) {
        strip(&mut self.more);
        self.reply.exit.get_or_insert(-1);
    }
}

impl Tidy for HostResult<Submission> {
    /// A refusal has no status, as in the reference.
    fn tidy(&mut self) {
        strip(&mut self.more);
    }
}

impl Tidy for HostResult<Cancelled> {
    fn tidy(&mut self) {
        strip(&mut self.more);
    }
}

impl Tidy for HostResult<Pong> {
    fn tidy(&mut self) {
        strip(&mut self.more);
        self.reply.status.get_or_insert_with(|| NOTHING.to_owned());
    }
}

impl Tidy for HostResult<Capabilities> {
    fn tidy(&mut self) {
        strip(&mut self.more);
        self.reply.status.get_or_insert_with(|| NOTHING.to_owned());
        let Some(scripts) = &mut self.reply.scripts else {
            return;
        };
        scripts.retain(|script| script.name.is_some());
        for script in scripts {
            let fits = |key: &str, value: Raw<'_>| match (key, value.scalar()) {
                ("path" | "profile", Scalar::Null) => true,
                ("path", _) => false,
                ("profile" | "schema_version", value) => matches!(value, Scalar::Text(_)),
                ("schema", _) => value.is_object(),
                ("executable", value) => matches!(value, Scalar::Bool(_) | Scalar::Number(_)),
                _ => true,
            };
            let wrong: Vec<String> = script
                .more
                .iter()
                .filter(|(key, value)| !fits(key, *value))
                .map(|(key, _)| key.to_owned())
                .collect();
            for key in wrong {
                script.more.remove(&key);
            }
        }
    }
}

fn strip(more: &mut Members) {
    for key in KNOWN {
        more.remove(key);
    }
}
