//! The use cases, one a file: authorise → lock → call → record → log. They print nothing; what
//! goes over many hosts is a [`Task`] whose events a front end pulls.
//!
//! `docs/design/MODULES.md` shows who uses whom.

pub mod auth;
pub mod backup;
pub mod cancel;
pub mod discover;
mod dispatcher;
pub mod doctor;
mod errors;
mod fanout;
pub mod follow;
pub mod handover;
pub mod join;
mod log;
pub mod maintain;
pub mod ping;
pub mod renew;
pub mod renew_ca;
pub mod replace_ca;
pub mod restore;
pub mod revocation;
pub mod revoke;
pub mod rotate;
pub mod run;
pub mod running;
mod select;

pub use dispatcher::{Dispatcher, Identities, Limits, Portion, new_reqid};
pub use fanout::{Event, Task};
pub use log::Log;
pub use ping::Inquiry;
pub use select::Choice;
