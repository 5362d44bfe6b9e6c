//! Pairing on the dispatcher's side (pki-and-pairing.md §7, §8): the queue, the operator's
//! decisions, the listener on 7444 and the interactive session.
//!
//! Listener and decisions meet only in the queue directory, in files of the reference's format, so
//! that either may be the reference's.

mod background;
mod desk;
mod identity;
mod interactive;
mod listener;
mod rate;

pub use crate::model::{Decision, Identified, Queued};
pub use crate::store::files::pairings::{DIR, Queue, QueueError};
pub use background::{BackgroundError, Child, PID_FILE, Started, Stopped, start, stop};
pub use desk::{Approved, Desk, DeskError, Overrides, list_text};
pub use identity::identify;
pub use interactive::{Console, Prompt, Reaction};
pub use listener::{Ended, Listener, ListenerError, ListenerOptions, Operator};
pub use rate::{RateLimit, RateTable, Verdict};

#[cfg(test)]
mod tests;
