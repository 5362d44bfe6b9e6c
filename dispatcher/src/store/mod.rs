//! What the dispatcher keeps: what each store promises, and the files that keep it.

pub mod agents;
#[cfg(test)]
mod conformance;
pub mod files;
pub mod locks;
#[cfg(test)]
pub(crate) mod memory;
pub mod pairings;
pub mod revoked;
pub mod rotation;
pub mod runs;
