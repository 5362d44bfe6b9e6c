//! The ctrl-exec dispatcher: registry, certificate authority, pairing, and parallel runs over a
//! fleet of agents. The command line and the API are thin layers over this library.

pub mod address;
pub mod auth;
pub mod ca;
pub mod cli;
pub mod config;
pub mod dirs;
pub mod doctor;
pub mod engine;
pub mod jval;
pub mod locks;
pub mod ops;
pub mod pairing;
pub mod registry;
pub mod renewal;
pub mod revoked;
pub mod rotation;
pub mod run_store;
pub mod select;
pub mod trust;

#[cfg(test)]
mod testing;
