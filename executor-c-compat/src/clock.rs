//! Times for `poll`.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// For `poll`; a time beyond what it can express only means an early look around.
pub fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec {
        tv_sec: 3600,
        tv_nsec: 0,
    })
}

/// What is left until `at`.
pub fn until(at: Instant) -> Timespec {
    timespec(at.saturating_duration_since(Instant::now()))
}
