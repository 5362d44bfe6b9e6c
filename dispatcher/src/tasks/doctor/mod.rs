//! Checks of a dispatcher's files, certificates and clock. Each finding says what is wrong and what
//! to do; nothing is changed.

mod agents;
mod certificates;
mod examine;
mod groups;
mod handover;
mod places;
mod report;
mod serials;

pub use agents::{clock_of, reach};
pub use examine::examine;
pub use report::{Finding, Grade, Report};
