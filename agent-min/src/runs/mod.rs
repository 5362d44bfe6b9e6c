//! Runs of scripts, from the permission to the result.

pub mod execute;
pub mod in_flight;
pub mod lock;
pub mod oom;
pub mod outcome;
mod retention;
pub mod run;
pub mod store;
pub mod supervisor;
