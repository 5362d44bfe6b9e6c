//! The ctrl-exec dispatcher as a library: certificate authority, pairing, what is kept about
//! agents and runs, and parallel calls to a fleet. The command line stands on top of it.

pub mod backup;
pub mod ca;
pub mod config;
pub mod fleet;
pub mod front;
pub mod model;
pub mod pairing;
pub mod rotation;
pub mod sealed;
pub mod store;
pub mod tasks;
pub mod trust;

#[cfg(test)]
mod testing;
