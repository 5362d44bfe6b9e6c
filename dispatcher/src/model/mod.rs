//! What the dispatcher knows, as types: results, records, errors. JSON is made and read here only.

mod control;
mod entry;
mod error;
pub mod host_word;
pub mod json;
mod outcome;
mod record;
mod reply;
mod result;

pub use control::{Cancelled, Running, RunningScript};
pub use entry::{EntryState, HostEntry};
pub use error::{AppError, Kind};
pub use outcome::{Outcome, Phase, Problem};
pub use record::{Mode, Origin, RunRecord};
pub use reply::{
    Capabilities, Parts, Pong, Rotation, RunEnd, Script, Submission, Submitted, gap_line,
};
pub use result::{HostResult, Reply};
