//! What the dispatcher knows, as types: results, records, errors. JSON is made and read here only.

mod agent;
mod control;
mod entry;
mod error;
pub mod host_word;
mod lock;
mod outcome;
mod record;
mod reply;
mod request;
mod result;
mod rotation;
mod tags;

pub use agent::{
    AgentRecord, Rate, SOME_PERL_VERSION, SerialStatus, is_perl_version, noted_features, salvage,
};
pub use control::{Cancelled, Running, RunningScript};
pub use entry::{EntryState, HostEntry};
pub use error::{AppError, Kind};
pub use lock::{Holder, LockNote};
pub use outcome::{Outcome, Phase, Problem};
pub use record::{Mode, Origin, RunRecord};
pub use reply::{
    Capabilities, Parts, Pong, Rotation, RunEnd, Script, Submission, Submitted, gap_line,
};
pub use request::{Decision, Identified, Queued};
pub use result::{HostResult, Reply};
pub use rotation::RotationState;
pub use tags::{MAX_TAG, MAX_TAGS, bounded_tags};
