//! Who this agent is: certificate, key and CA on disk, their replacement by pairing and by renewal,
//! and the clock they are judged by.

pub mod clock;
pub mod files;
pub mod install;
pub mod renewal;
pub mod staging;
