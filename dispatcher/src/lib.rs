//! The ctrl-exec dispatcher: registry, certificate authority, pairing, and parallel runs over a
//! fleet of agents. The command line and the API are thin layers over this library.

pub mod address;
pub mod auth;
pub mod config;
pub mod dirs;
pub mod engine;
pub mod jval;
pub mod locks;
pub mod ops;
pub mod registry;
pub mod run_store;
pub mod select;

#[cfg(test)]
mod testing;
