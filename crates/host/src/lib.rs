//! What the ctrl-exec programs need of the host they run on: files that survive power loss, reads
//! with a bound, locks, users, default paths below a `--root`, the system log, diagnostics on a
//! standard error that never blocks, the host's name, random ids.
#![forbid(unsafe_code)]

pub mod bounded;
pub mod diagnostics;
pub mod durable;
pub mod exec_bit;
pub mod file_name;
pub mod guarded;
pub mod hostname;
pub mod lock;
pub mod mountinfo;
pub mod paths;
pub mod random;
pub mod stderr;
pub mod syslog;
pub mod users;

#[cfg(test)]
mod testing;

pub use paths::Root;
