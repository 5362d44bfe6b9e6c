//! The verbs.

pub mod agents;
pub mod backup;
pub mod bridge;
pub mod ca;
pub mod control;
pub mod discover;
pub mod doctor;
pub mod follow;
pub mod history;
pub mod maintain;
pub mod pairing;
pub mod ping;
pub mod revoke;
pub mod run;
pub mod setup;
pub mod shell;
