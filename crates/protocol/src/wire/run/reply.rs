//! How a run ended.

use crate::json::Fields;

/// One output stream of a script, as it travels: text, and how many bytes were left out of its
/// middle.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Output {
    /// The text; what was not UTF-8 is replaced.
    pub text: String,
    /// Bytes that are missing between head and tail; 0 when all is there.
    pub dropped: u64,
    /// Where they are missing: the length of the text before the gap.
    pub gap_at: usize,
}

/// What is known of how a script was ended, beyond its exit status. The reference says none of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ending {
    /// The signal that ended it.
    pub signal: Option<u8>,
    /// The system ran out of memory and ended it.
    pub oom: bool,
    /// It was ended at its time limit.
    pub time_limit: bool,
    /// It was ended because somebody asked for that.
    pub cancelled: bool,
}

impl Ending {
    pub(super) fn put(self, out: &mut Fields) {
        out.count_if("signal", self.signal.map(u64::from))
            .flag_if("oom", self.oom)
            .flag_if("time_limit", self.time_limit)
            .flag_if("cancelled", self.cancelled);
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunReply {
    /// Script name.
    pub script: String,
    /// Exit status 0–255, 126 for a signal, 127 when it could not be executed, -1 when not run.
    pub exit: i32,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// What else is known of its end.
    pub ending: Ending,
    /// Request id.
    pub reqid: String,
}

impl RunReply {
    /// The body of the synchronous answer.
    pub fn render(&self) -> String {
        let mut out = Fields::with_room(13);
        out.text("script", &self.script)
            .integer("exit", i64::from(self.exit))
            .text("stdout", &self.stdout.text)
            .text("stderr", &self.stderr.text);
        put_truncation(&mut out, &self.stdout, &self.stderr);
        self.ending.put(&mut out);
        out.text("reqid", &self.reqid).finish()
    }
}

/// Adds `stdout_truncated` and `stderr_truncated` (bytes dropped) where something was dropped, and
/// `stdout_gap` and `stderr_gap`: bytes of the text before the gap.
pub(super) fn put_truncation(out: &mut Fields, stdout: &Output, stderr: &Output) {
    for (name, gap, stream) in [
        ("stdout_truncated", "stdout_gap", stdout),
        ("stderr_truncated", "stderr_gap", stderr),
    ] {
        if stream.dropped > 0 {
            out.count_if(name, Some(stream.dropped))
                .count_if(gap, Some(stream.gap_at as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_is_marked_only_when_it_happened() {
        let mut reply = RunReply {
            script: "s".into(),
            exit: 3,
            reqid: "r".into(),
            ..RunReply::default()
        };
        assert_eq!(
            reply.render(),
            r#"{"script":"s","exit":3,"stdout":"","stderr":"","reqid":"r"}"#
        );
        reply.stderr.dropped = 7;
        assert!(reply.render().contains(r#""stderr_truncated":7"#));
        assert!(!reply.render().contains("stdout_truncated"));
    }
}
