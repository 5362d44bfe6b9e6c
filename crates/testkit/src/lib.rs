//! What the tests of several ctrl-exec programs, and the demo, share. No program that is installed
//! depends on it.
//!
//! The peers of release 0.12.3 (`perl`) are written from what was seen of the real ones
//! (docs/compat), so that a test fails where the real peer would.
#![forbid(unsafe_code)]
#![cfg_attr(
    feature = "json",
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test that cannot go on says where"
    )
)]

#[cfg(feature = "json")]
pub mod json;
pub mod ports;
pub mod temp;
pub mod wait;

#[cfg(feature = "peers")]
pub mod agent;
#[cfg(feature = "peers")]
pub mod ca;
#[cfg(feature = "peers")]
pub mod client;
#[cfg(feature = "peers")]
pub mod fleet;
#[cfg(feature = "peers")]
pub mod perl;
