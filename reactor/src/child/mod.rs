//! Child processes as sources of events.

mod spec;

pub use spec::{Captured, ChildExit, ChildResult, ChildSpec, Output, SpawnError};
