//! State in files, in the format of release 0.12.3, so that both can work on one directory.

pub mod dirs;
pub mod issued;
pub mod locks;
pub mod pairings;
pub mod registry;
pub mod revoked;
pub mod rotation;
pub mod runs;
pub mod tokens;
