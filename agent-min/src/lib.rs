//! `ctrl-exec-agent`: runs allowlisted scripts for a paired dispatcher, over mutual TLS.
//!
//! The server is one thread with one event loop ([`serve`]); what it answers is decided by pure
//! [`handlers`]. State on disk sits behind one small module each: [`trust`], [`store`],
//! [`staging`], [`identity`], [`schema`].
#![forbid(unsafe_code)]

pub mod admission;
pub mod cli;
pub mod client;
pub mod exec;
pub mod handlers;
pub mod identity;
pub mod job;
pub mod live;
pub mod pairing;
pub mod places;
pub mod ratelimit;
pub mod schema;
pub mod serve;
pub mod staging;
pub mod store;
pub mod trust;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
