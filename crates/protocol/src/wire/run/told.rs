//! Everything that the answers about a run may hold, as it comes.

use super::reply::{Ending, Output, RunReply};
use crate::json::{self, Bounds, JsonError, Scalar};
use miniserde::Deserialize;

/// Everything that the answers about a run may hold.
#[derive(Default, Deserialize)]
pub(super) struct Told {
    pub(super) reqid: Scalar,
    pub(super) status: Scalar,
    pub(super) script: Scalar,
    pub(super) owner: Scalar,
    pub(super) started: Scalar,
    pub(super) finished: Scalar,
    pub(super) exit: Scalar,
    pub(super) error: Scalar,
    pub(super) code: Scalar,
    pub(super) stdout: Scalar,
    pub(super) stderr: Scalar,
    pub(super) stdout_truncated: Scalar,
    pub(super) stderr_truncated: Scalar,
    pub(super) stdout_gap: Scalar,
    pub(super) stderr_gap: Scalar,
    pub(super) signal: Scalar,
    pub(super) oom: Scalar,
    pub(super) time_limit: Scalar,
    pub(super) cancelled: Scalar,
}

impl Told {
    /// Output of scripts of the reference may hold any bytes.
    pub(super) fn read(body: &[u8]) -> Result<Self, JsonError> {
        json::read_object(json::lossy(body).as_bytes(), &Bounds::ANSWER)
    }

    pub(super) fn exit(&self) -> i32 {
        let exit = self
            .exit
            .integer()
            .and_then(|exit| i32::try_from(exit).ok());
        exit.unwrap_or(-1)
    }

    pub(super) fn reply(self) -> RunReply {
        let output = |text: Scalar, dropped: &Scalar, gap: &Scalar| Output {
            text: text.into_string().unwrap_or_default(),
            dropped: dropped.count().unwrap_or_default(),
            gap_at: gap
                .count()
                .and_then(|gap| usize::try_from(gap).ok())
                .unwrap_or_default(),
        };
        RunReply {
            exit: self.exit(),
            script: self.script.text(),
            stdout: output(self.stdout, &self.stdout_truncated, &self.stdout_gap),
            stderr: output(self.stderr, &self.stderr_truncated, &self.stderr_gap),
            ending: Ending {
                signal: self
                    .signal
                    .count()
                    .and_then(|signal| u8::try_from(signal).ok()),
                oom: self.oom.is_true(),
                time_limit: self.time_limit.is_true(),
                cancelled: self.cancelled.is_true(),
            },
            reqid: self.reqid.text(),
        }
    }
}
