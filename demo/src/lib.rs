//! A dispatcher and a few agents on loopback, driven through their real binaries.
//!
//! `cargo demo` shows them to a person; the end-to-end tests of the workspace check them. Both build
//! the same [`World`]: a directory with one root for the dispatcher and one for each agent.
#![forbid(unsafe_code)]

pub mod binaries;
pub mod process;
pub mod soak;
pub mod world;

pub use binaries::Binaries;
pub use world::World;
