//! The answers of agents, each with the members whose meaning is known.

use super::result::Reply;
use ctrl_exec_protocol::capture::Captured;
use ctrl_exec_protocol::json::{Json, Members};

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
    /// Where they are missing in standard output: the length of the text before the gap.
    pub stdout_gap: Option<i64>,
    /// The same of standard error.
    pub stderr_gap: Option<i64>,
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
    /// Bytes of standard output and standard error that were told while the script ran; `None` where
    /// all came at the end. Not in JSON.
    pub told: Option<(usize, usize)>,
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

    /// Adds what came of the outputs while the script ran: the result has what it tells beyond that.
    pub fn add_output(&mut self, [stdout, stderr]: [Captured; 2]) {
        let mut told = (0, 0);
        for (output, told, text, truncated, gap) in [
            (
                stdout,
                &mut told.0,
                &mut self.stdout,
                &mut self.stdout_truncated,
                &mut self.stdout_gap,
            ),
            (
                stderr,
                &mut told.1,
                &mut self.stderr,
                &mut self.stderr_truncated,
                &mut self.stderr_gap,
            ),
        ] {
            let mut all = String::from_utf8_lossy(&output.head).into_owned();
            if output.dropped > 0 {
                *gap = i64::try_from(all.len()).ok();
                let dropped = i64::try_from(output.dropped).unwrap_or(i64::MAX);
                *truncated = Some(truncated.unwrap_or(0).saturating_add(dropped));
            }
            all.push_str(&String::from_utf8_lossy(&output.tail));
            *told = all.len();
            let rest = text.as_deref().unwrap_or_default();
            if all.is_empty() {
                continue;
            }
            if !rest.is_empty() && !all.ends_with('\n') {
                all.push('\n');
            }
            all.push_str(rest);
            *text = Some(all);
        }
        self.told = Some(told);
    }

    /// Standard output in parts: what came, and before each further part how many bytes are missing.
    /// A part that follows a gap of unknown place is missing: it is said beside the output.
    pub fn stdout_parts(&self) -> Parts<'_> {
        Parts::of(&self.stdout, self.stdout_truncated, self.stdout_gap)
    }

    /// As [`stdout_parts`](Self::stdout_parts).
    pub fn stderr_parts(&self) -> Parts<'_> {
        Parts::of(&self.stderr, self.stderr_truncated, self.stderr_gap)
    }

    /// Drops both outputs.
    pub fn drop_output(&mut self) {
        self.stdout = None;
        self.stderr = None;
        self.stdout_gap = None;
        self.stderr_gap = None;
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

/// An output and its gap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parts<'a> {
    /// What is before the gap; everything where there is none, or nobody knows where.
    pub head: &'a str,
    /// How many bytes are missing, where it is known where: between the two.
    pub gap: Option<i64>,
    /// What is after it.
    pub tail: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a Option<String>, truncated: Option<i64>, gap: Option<i64>) -> Self {
        let text = text.as_deref().unwrap_or_default();
        let at = gap.and_then(|gap| usize::try_from(gap).ok());
        let parts = at
            .filter(|_| truncated.is_some_and(|truncated| truncated > 0))
            .and_then(|at| text.split_at_checked(at));
        match parts {
            Some((head, tail)) => Self {
                head,
                gap: truncated,
                tail,
            },
            None => Self {
                head: text,
                gap: None,
                tail: "",
            },
        }
    }

    /// The output with a line of its own where bytes are missing.
    pub fn marked(self) -> std::borrow::Cow<'a, str> {
        self.map(std::borrow::Cow::Borrowed)
    }

    /// As [`marked`](Self::marked), where `shown` makes of each part what is to be shown of it.
    pub fn map(
        self,
        shown: impl Fn(&'a str) -> std::borrow::Cow<'a, str>,
    ) -> std::borrow::Cow<'a, str> {
        let head = shown(self.head);
        let Some(missing) = self.gap else { return head };
        let end = if head.is_empty() || head.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let line = gap_line(missing);
        format!("{head}{end}{line}\n{}", shown(self.tail)).into()
    }
}

/// What stands in an output where bytes are missing.
pub fn gap_line(missing: impl std::fmt::Display) -> String {
    format!("[ctrl-exec: {missing} bytes are missing here]")
}

impl Reply for RunEnd {
    fn take(answer: &mut Members) -> Self {
        Self {
            script: answer.take_text("script"),
            exit: answer.take_integer("exit"),
            stdout: answer.take_text("stdout"),
            stderr: answer.take_text("stderr"),
            stdout_truncated: answer.take_integer("stdout_truncated"),
            stderr_truncated: answer.take_integer("stderr_truncated"),
            stdout_gap: answer.take_integer("stdout_gap"),
            stderr_gap: answer.take_integer("stderr_gap"),
            reqid: answer.take_text("reqid"),
            signal: answer.take_integer("signal"),
            oom: answer.take_true("oom"),
            time_limit: answer.take_true("time_limit"),
            cancelled: answer.take_true("cancelled"),
            code: answer.take_text("code"),
            told: None,
        }
    }

    fn put(&self, object: &mut Members) {
        for (key, text) in [
            ("script", &self.script),
            ("stdout", &self.stdout),
            ("stderr", &self.stderr),
            ("reqid", &self.reqid),
            ("code", &self.code),
        ] {
            object.set_text(key, text.as_deref());
        }
        for (key, number) in [
            ("exit", self.exit),
            ("stdout_truncated", self.stdout_truncated),
            ("stderr_truncated", self.stderr_truncated),
            ("stdout_gap", self.stdout_gap),
            ("stderr_gap", self.stderr_gap),
            ("signal", self.signal),
        ] {
            object.set_integer(key, number);
        }
        for (key, is_so) in [
            ("oom", self.oom),
            ("time_limit", self.time_limit),
            ("cancelled", self.cancelled),
        ] {
            if is_so {
                object.set(key, Json::flag(true));
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
    fn take(answer: &mut Members) -> Self {
        let status = answer.take_text("status");
        Self {
            submitted: match status.as_deref() {
                Some("accepted") => Submitted::Accepted,
                Some("busy") => Submitted::Busy,
                _ => Submitted::No,
            },
            script: answer.take_text("script"),
            reqid: answer.take_text("reqid"),
            status,
        }
    }

    fn put(&self, object: &mut Members) {
        object.set_text("script", self.script.as_deref());
        object.set_text("reqid", self.reqid.as_deref());
        object.set_text("status", self.status.as_deref());
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
    /// Digest of the CA certificates it trusts; release 0.12.3 tells none.
    pub ca: Option<String>,
    /// Number of the revocation list it has of this dispatcher.
    pub crl: u64,
}

impl Pong {
    /// Whether the agent says that all is well.
    pub fn is_ok(&self) -> bool {
        self.status.as_deref() == Some("ok")
    }
}

impl Reply for Pong {
    fn take(answer: &mut Members) -> Self {
        Self {
            status: answer.take_text("status"),
            version: answer.take_text("version"),
            expiry: answer.take_text("expiry"),
            // Stays among the members: release 0.12.3 writes 0 and 1, ours false and true.
            staged: answer.is_true("staged"),
            reqid: answer.take_text("reqid"),
            features: answer.texts("features"),
            ca: answer.text("ca").map(std::borrow::Cow::into_owned),
            crl: answer
                .integer("crl")
                .and_then(|number| u64::try_from(number).ok())
                .unwrap_or_default(),
        }
    }

    fn missing() -> Self {
        Self {
            status: Some("error".to_owned()),
            ..Self::default()
        }
    }

    fn put(&self, object: &mut Members) {
        for (key, text) in [
            ("status", &self.status),
            ("version", &self.version),
            ("expiry", &self.expiry),
            ("reqid", &self.reqid),
        ] {
            object.set_text(key, text.as_deref());
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
    pub tags: Option<Members>,
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
    pub more: Members,
}

impl Reply for Capabilities {
    fn take(answer: &mut Members) -> Self {
        let scripts = answer.remove("scripts");
        let scripts = scripts.filter(|scripts| scripts.raw().is_array());
        let tags = answer.remove("tags");
        Self {
            status: answer.take_text("status"),
            version: answer.take_text("version"),
            tags: tags.and_then(|tags| Members::from_raw(tags.raw())),
            scripts: scripts.map(|scripts| {
                let objects = scripts.raw().items().filter_map(Members::from_raw);
                objects.map(Script::of).collect()
            }),
        }
    }

    fn missing() -> Self {
        Self {
            status: Some("error".to_owned()),
            ..Self::default()
        }
    }

    fn put(&self, object: &mut Members) {
        object.set_text("status", self.status.as_deref());
        object.set_text("version", self.version.as_deref());
        if let Some(tags) = &self.tags {
            object.set("tags", tags.clone());
        }
        if let Some(scripts) = &self.scripts {
            let scripts = Json::list(scripts.iter().map(Script::object));
            object.set("scripts", scripts);
        }
    }
}

impl Script {
    fn of(mut script: Members) -> Self {
        Self {
            name: script.take_text("name"),
            path: script.take_text("path"),
            executable: script.is_true("executable"),
            more: script,
        }
    }

    fn object(&self) -> Members {
        let mut object = self.more.clone();
        object.set_text("name", self.name.as_deref());
        object.set_text("path", self.path.as_deref());
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
    fn take(answer: &mut Members) -> Self {
        let status = answer.take_text("status");
        let exit = if status.as_deref() == Some("ok") {
            0
        } else {
            -1
        };
        Self {
            exit: answer.take_integer("exit").or(Some(exit)),
            status,
        }
    }

    fn missing() -> Self {
        Self {
            status: Some("error".to_owned()),
            exit: Some(-1),
        }
    }

    fn put(&self, object: &mut Members) {
        object.set_text("status", self.status.as_deref());
        object.set_integer("exit", self.exit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_marked_where_they_are() {
        let marked = |text: &str, truncated, gap| {
            let end = RunEnd {
                stdout: Some(text.to_owned()),
                stdout_truncated: truncated,
                stdout_gap: gap,
                ..RunEnd::default()
            };
            end.stdout_parts().marked().into_owned()
        };
        assert_eq!(marked("ab", None, None), "ab");
        assert_eq!(marked("ab", None, Some(1)), "ab", "nothing is missing");
        assert_eq!(marked("ab", Some(5), None), "ab", "nobody knows where");
        let line = "[ctrl-exec: 5 bytes are missing here]";
        assert_eq!(marked("ab", Some(5), Some(1)), format!("a\n{line}\nb"));
        assert_eq!(marked("a\nb", Some(5), Some(2)), format!("a\n{line}\nb"));
        assert_eq!(marked("ab", Some(5), Some(0)), format!("{line}\nab"));
        // What an agent says is not believed.
        for gap in [-1, 3, 99, i64::MAX] {
            assert_eq!(marked("\u{e9}", Some(5), Some(gap)), "\u{e9}");
        }
        assert_eq!(
            marked("\u{e9}", Some(5), Some(1)),
            "\u{e9}",
            "within a character"
        );
    }

    #[test]
    fn what_came_while_it_ran_and_what_came_at_the_end_are_one() {
        let mut end = RunEnd {
            stdout: Some(String::new()),
            stderr: Some("agent: ended by signal 9\n".to_owned()),
            ..RunEnd::default()
        };
        let cut = Captured {
            head: b"caf\xc3".to_vec(),
            tail: b"\xa9 end".to_vec(),
            dropped: 7,
        };
        end.add_output([cut, Captured::whole(*b"warn")]);
        assert_eq!(end.stdout.as_deref(), Some("caf\u{fffd}\u{fffd} end"));
        assert_eq!((end.stdout_truncated, end.stdout_gap), (Some(7), Some(6)));
        assert_eq!(
            end.stderr.as_deref(),
            Some("warn\nagent: ended by signal 9\n")
        );
        assert_eq!((end.told, end.stderr_gap), (Some((13, 4)), None));
    }
}
