//! The answers of agents, each with the members whose meaning is known.

use super::json::{self, Object, Value};
use super::result::Reply;

/// The end of a run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunEnd {
    /// The script's name.
    pub script: Option<String>,
    /// Its exit status; -1 when it did not run, 126 when a signal ended it.
    pub exit: Option<i64>,
    /// Standard output.
    pub stdout: Option<String>,
    /// Standard error.
    pub stderr: Option<String>,
    /// Bytes missing in the middle of standard output.
    pub stdout_truncated: Option<i64>,
    /// Bytes missing in the middle of standard error.
    pub stderr_truncated: Option<i64>,
    /// The run's request id.
    pub reqid: Option<String>,
    /// The signal that ended it.
    pub signal: Option<i64>,
    /// The kernel ended it for want of memory.
    pub oom: bool,
    /// Its time limit ended it.
    pub time_limit: bool,
    /// Somebody cancelled it.
    pub cancelled: bool,
    /// The kind of a refusal, such as `busy`.
    pub code: Option<String>,
}

impl RunEnd {
    /// Bytes of both outputs.
    pub fn output_size(&self) -> usize {
        let size = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size(&self.stdout) + size(&self.stderr)
    }

    /// Takes output of an agent of 0.12.3 whose characters stand for bytes for the text that these
    /// are, as its executor mode sends it (dispatcher.md §8). Whether anything was so.
    pub fn unmap_output(&mut self) -> bool {
        let mut mapped = false;
        for text in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            if let Some(meant) = bytes_of_characters(text) {
                *text = meant;
                mapped = true;
            }
        }
        mapped
    }

    /// Drops both outputs.
    pub fn drop_output(&mut self) {
        self.stdout = None;
        self.stderr = None;
    }

    /// Drops both outputs and says how much was dropped.
    pub fn leave_output_out(&mut self) {
        let len = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len());
        let add = |truncated: &mut Option<i64>, dropped: usize| {
            if dropped > 0 {
                let dropped = i64::try_from(dropped).unwrap_or(i64::MAX);
                *truncated = Some(truncated.unwrap_or(0).saturating_add(dropped));
            }
        };
        add(&mut self.stdout_truncated, len(&self.stdout));
        add(&mut self.stderr_truncated, len(&self.stderr));
        self.drop_output();
    }

    /// What ended it other than itself, in words.
    pub fn death(&self) -> Option<String> {
        if self.cancelled {
            return Some("cancelled".to_owned());
        }
        if self.time_limit {
            return Some("ended by its time limit".to_owned());
        }
        if self.oom {
            return Some("killed for want of memory".to_owned());
        }
        let signal = self.signal?;
        Some(format!("ended by signal {signal}"))
    }
}

impl Reply for RunEnd {
    fn take(answer: &mut Object) -> Self {
        Self {
            script: json::take_text(answer, "script"),
            exit: json::take_integer(answer, "exit"),
            stdout: json::take_text(answer, "stdout"),
            stderr: json::take_text(answer, "stderr"),
            stdout_truncated: json::take_integer(answer, "stdout_truncated"),
            stderr_truncated: json::take_integer(answer, "stderr_truncated"),
            reqid: json::take_text(answer, "reqid"),
            signal: json::take_integer(answer, "signal"),
            oom: json::take_true(answer, "oom"),
            time_limit: json::take_true(answer, "time_limit"),
            cancelled: json::take_true(answer, "cancelled"),
            code: json::take_text(answer, "code"),
        }
    }

    fn put(&self, object: &mut Object) {
        for (key, text) in [
            ("script", &self.script),
            ("stdout", &self.stdout),
            ("stderr", &self.stderr),
            ("reqid", &self.reqid),
            ("code", &self.code),
        ] {
            json::put_text(object, key, text.as_deref());
        }
        for (key, number) in [
            ("exit", self.exit),
            ("stdout_truncated", self.stdout_truncated),
            ("stderr_truncated", self.stderr_truncated),
            ("signal", self.signal),
        ] {
            json::put_integer(object, key, number);
        }
        for (key, is_so) in [
            ("oom", self.oom),
            ("time_limit", self.time_limit),
            ("cancelled", self.cancelled),
        ] {
            if is_so {
                object.insert(key.to_owned(), Value::Bool(true));
            }
        }
    }
}

/// The text whose bytes these characters are; `None` where they are none, or none but ASCII.
fn bytes_of_characters(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    String::from_utf8(bytes?).ok()
}

/// What became of the submission of an async run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Submitted {
    /// The agent has taken it on.
    Accepted,
    /// The script runs already.
    Busy,
    /// It was not taken on.
    #[default]
    No,
}

/// The answer to an async submission.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Submission {
    /// What became of it.
    pub submitted: Submitted,
    /// The script's name.
    pub script: Option<String>,
    /// The run's request id.
    pub reqid: Option<String>,
    /// The agent's word for it; a refusal has none.
    pub status: Option<String>,
}

impl Reply for Submission {
    fn take(answer: &mut Object) -> Self {
        let status = json::take_text(answer, "status");
        Self {
            submitted: match status.as_deref() {
                Some("accepted") => Submitted::Accepted,
                Some("busy") => Submitted::Busy,
                _ => Submitted::No,
            },
            script: json::take_text(answer, "script"),
            reqid: json::take_text(answer, "reqid"),
            status,
        }
    }

    fn put(&self, object: &mut Object) {
        json::put_text(object, "script", self.script.as_deref());
        json::put_text(object, "reqid", self.reqid.as_deref());
        json::put_text(object, "status", self.status.as_deref());
    }
}

/// The answer to a ping.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pong {
    /// `ok`, or the agent's word for what is wrong; `error` when it was not reached.
    pub status: Option<String>,
    /// The agent's version.
    pub version: Option<String>,
    /// End of its certificate, in OpenSSL's form.
    pub expiry: Option<String>,
    /// It holds a renewed certificate that it does not show yet.
    pub staged: bool,
    /// The request id.
    pub reqid: Option<String>,
    /// What it can do beyond release 0.12.3, such as `cancel`.
    pub features: Vec<String>,
}

impl Pong {
    /// Whether the agent says that all is well.
    pub fn is_ok(&self) -> bool {
        self.status.as_deref() == Some("ok")
    }
}

impl Reply for Pong {
    fn take(answer: &mut Object) -> Self {
        Self {
            status: json::take_text(answer, "status"),
            version: json::take_text(answer, "version"),
            expiry: json::take_text(answer, "expiry"),
            // Stays among the members: release 0.12.3 writes 0 and 1, ours false and true.
            staged: json::truthy(answer, "staged"),
            reqid: json::take_text(answer, "reqid"),
            features: json::texts_of(answer, "features"),
        }
    }

    fn missing() -> Self {
        Self {
            status: Some("error".to_owned()),
            ..Self::default()
        }
    }

    fn put(&self, object: &mut Object) {
        for (key, text) in [
            ("status", &self.status),
            ("version", &self.version),
            ("expiry", &self.expiry),
            ("reqid", &self.reqid),
        ] {
            json::put_text(object, key, text.as_deref());
        }
    }
}

/// What an agent offers.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    /// `ok`, or `error` when it was not reached.
    pub status: Option<String>,
    /// The agent's version.
    pub version: Option<String>,
    /// Its tags, as it sent them.
    pub tags: Option<Object>,
    /// Its scripts.
    pub scripts: Option<Vec<Script>>,
}

/// A script that an agent offers.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Its name.
    pub name: Option<String>,
    /// Where it is.
    pub path: Option<String>,
    /// Whether it can be executed.
    pub executable: bool,
    /// Everything else, its schema among it, as it came.
    pub more: Object,
}

impl Reply for Capabilities {
    fn take(answer: &mut Object) -> Self {
        let scripts = match answer.remove("scripts") {
            Some(Value::Array(scripts)) => Some(
                scripts
                    .into_iter()
                    .filter_map(|script| match script {
                        Value::Object(script) => Some(Script::of(script)),
                        _ => None,
                    })
                    .collect(),
            ),
            _ => None,
        };
        Self {
            status: json::take_text(answer, "status"),
            version: json::take_text(answer, "version"),
            tags: match answer.remove("tags") {
                Some(Value::Object(tags)) => Some(tags),
                _ => None,
            },
            scripts,
        }
    }

    fn missing() -> Self {
        Self {
            status: Some("error".to_owned()),
            ..Self::default()
        }
    }

    fn put(&self, object: &mut Object) {
        json::put_text(object, "status", self.status.as_deref());
        json::put_text(object, "version", self.version.as_deref());
        if let Some(tags) = &self.tags {
            object.insert("tags".to_owned(), Value::Object(tags.clone()));
        }
        if let Some(scripts) = &self.scripts {
            let scripts = json::objects(scripts.iter().map(Script::object));
            object.insert("scripts".to_owned(), scripts);
        }
    }
}

impl Script {
    fn of(mut script: Object) -> Self {
        Self {
            name: json::take_text(&mut script, "name"),
            path: json::take_text(&mut script, "path"),
            executable: json::truthy(&script, "executable"),
            more: script,
        }
    }

    fn object(&self) -> Object {
        let mut object = self.more.clone();
        json::put_text(&mut object, "name", self.name.as_deref());
        json::put_text(&mut object, "path", self.path.as_deref());
        object
    }
}

/// The answer to `/rotate-serial`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rotation {
    /// `ok` when the agent has done it.
    pub status: Option<String>,
    /// 0 when it has, else -1, unless the agent says otherwise.
    pub exit: Option<i64>,
}

impl Reply for Rotation {
    fn take(answer: &mut Object) -> Self {
        let status = json::take_text(answer, "status");
        let exit = if status.as_deref() == Some("ok") {
            0
        } else {
            -1
        };
        Self {
            exit: json::take_integer(answer, "exit").or(Some(exit)),
            status,
        }
    }

    fn missing() -> Self {
        Self {
            status: Some("error".to_owned()),
            exit: Some(-1),
        }
    }

    fn put(&self, object: &mut Object) {
        json::put_text(object, "status", self.status.as_deref());
        json::put_integer(object, "exit", self.exit);
    }
}
