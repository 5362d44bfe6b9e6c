//! One loop: its share of the calls, each a small state machine over one connection.

mod begin;
mod exchange;
mod incoming;
mod live;
mod names;
mod part;
mod state;
mod stop;
mod turn;

pub(super) use part::Part;
pub(super) use state::Worker;
