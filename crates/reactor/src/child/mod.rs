//! Child processes as sources of events.

mod family;
mod running;
mod spec;
mod start;

pub use ctrl_exec_protocol::capture::Captured;
pub(crate) use running::{Child, Next, Stdio};
pub use spec::{ChildExit, ChildResult, ChildSpec, EndedBy, Output, SpawnError};
