//! What the ctrl-exec programs need of the host they run on, shared by agent and dispatcher:
//! files that survive power loss, default paths below a `--root`, the system log, the host's name,
//! random ids.
#![forbid(unsafe_code)]

pub mod durable;
pub mod hostname;
pub mod paths;
pub mod random;
pub mod syslog;

pub use paths::Root;
