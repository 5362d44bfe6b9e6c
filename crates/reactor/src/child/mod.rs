//! Child processes as sources of events.

mod capture;
mod running;
mod spec;
mod start;

pub(crate) use running::{Child, Next, Stdio};
pub use spec::{Captured, ChildExit, ChildResult, ChildSpec, Output, SpawnError};
