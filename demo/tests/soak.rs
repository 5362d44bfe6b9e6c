//! A short soak; `cargo soak` is the long one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use ctrl_exec_demo::soak::{Plan, play};

#[test]
fn nothing_is_lost_doubled_or_told_falsely() {
    let plan = Plan {
        runs: 60,
        workers: 4,
        seed: 20_261_128,
        restarts: false,
    };
    let report = play(common::binaries(), plan, false).unwrap();
    assert!(report.faults.is_empty(), "{report:#?}");
    assert!(report.scripts.0 > 10, "{report:#?}");
}
