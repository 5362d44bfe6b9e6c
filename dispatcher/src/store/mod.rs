//! What the dispatcher keeps: what each store promises, and the files that keep it.

#[cfg(test)]
mod conformance;
pub mod files;
pub mod locks;
#[cfg(test)]
pub(crate) mod memory;
pub mod runs;
