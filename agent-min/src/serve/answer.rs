//! What is known of an answer that begins while its script runs.

use ctrl_exec_protocol::live::Live;

/// An answer under way.
#[derive(Default)]
pub(super) struct Answer {
    /// Output that has not been handed over.
    pub(super) waiting: Live,
    /// Something was handed over and is not out yet.
    pub(super) sending: bool,
    /// The result; nothing comes after it.
    pub(super) end: Option<String>,
}
