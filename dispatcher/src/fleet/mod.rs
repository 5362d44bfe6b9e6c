//! Calls to many agents at once (dispatcher.md §8).
//!
//! An [`Engine`] lives as long as its program. [`Engine::start`] hands it calls and returns a
//! [`Batch`], out of which the caller pulls what happens. Each of the engine's loops holds its
//! share of the agents with a small state machine per connection, knows which connections an
//! agent still takes ([`pacing`]) and keeps those that can serve again ([`pool`]).

pub mod address;
mod batch;
mod call;
mod close;
mod engine;
mod error;
pub mod hostlist;
mod options;
mod pacing;
mod pool;
pub mod select;
mod tls_fault;
mod worker;

pub use batch::{Batch, Control, Plan, Report};
pub use call::{Answer, Call, Identity, Route, Target};
pub use ctrl_exec_protocol::live::{Piece, Stream};
pub use engine::Engine;
pub use error::{CallError, Fault, PERL_REQUEST};
pub use options::EngineOptions;

/// Largest answer, in bytes, to a request whose answer is a few lines: ping, renewal, rotation.
pub const SMALL_ANSWER: usize = 64 << 10;
/// Largest answer otherwise, unless configured (`max_answer`): what an agent of ours sends at most
/// with its default limits is 3 MiB. At the slowest speed that is taken, this is 70 minutes.
pub const MAX_ANSWER: usize = 4 << 20;
