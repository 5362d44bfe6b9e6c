//! `run` (dispatcher.md §3.1, §9.1): an order becomes calls, their answers results and a record.

mod answer;
mod call;
mod common;
mod detached;
mod order;
mod sync;

pub use answer::{async_result, run_result};
pub use detached::{AsyncRun, submit};
pub use order::{RunOrder, must_ask};
pub use sync::{Run, start};
