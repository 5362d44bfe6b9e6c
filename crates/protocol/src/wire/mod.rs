//! Every message of agents and of pairing: what is sent, and how it is read.
//!
//! Application failures travel as HTTP 200 with an `error` member (agent.md §2, dispatcher.md §9), so
//! every answer here is a body, and its status is the caller's business. What is added to the
//! messages of the reference it ignores, or answers with 404.

mod control;
mod inspect;
pub mod messages;
pub mod pairing;
mod renewal;
mod run;
mod trust;
