//! What the dispatcher keeps.

pub mod files;
