//! What a finished run produced.

use ctrl_exec_protocol::wire::messages::Ending;

/// What a finished run produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code by the mapping of agent.md §4.2.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Bytes dropped from each stream.
    pub dropped: (u64, u64),
    /// Where they were dropped: bytes of each text before its gap.
    pub gaps: (usize, usize),
    /// What is known of how it was ended.
    pub ending: Ending,
}
