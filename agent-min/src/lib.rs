//! `ctrl-exec-agent`: runs allowlisted scripts for a paired dispatcher, over mutual TLS.
//!
//! The server is one thread with one event loop ([`serve`]). What it answers is decided by the
//! [`handlers`], one file an endpoint; they read and write the agent's own files, but know no
//! sockets and start no processes. State on disk sits behind one module each: [`config`],
//! [`identity`], [`trust`] and the store of [`runs`].
#![forbid(unsafe_code)]

pub mod admission;
pub mod cli;
pub mod client;
pub mod config;
pub mod executable;
pub mod handlers;
pub mod identity;
pub mod known;
pub mod pairing;
pub mod rate_limit;
pub mod restrict;
pub mod runs;
pub mod serve;
mod table;
pub mod trust;
pub mod verdict;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
