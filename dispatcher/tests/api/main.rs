//! The HTTP API through its real program: real sockets, agents that answer as they are told, and
//! every answer held against the program's own OpenAPI document.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod client;
mod docs;
mod framing;
mod live;
mod load;
mod metrics;
mod replay;
mod runs;
