//! Every message of agents and of pairing: what is sent, and how it is read.

pub mod messages;
pub mod pairing;
