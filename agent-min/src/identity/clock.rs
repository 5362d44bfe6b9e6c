//! The best known time of a device whose own clock may be wrong.

use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::verify::Clock;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A clock that never says less than `floor`: a router without a battery boots in 1970, and an
/// honest clock is always past everything this device has seen (design §2).
pub fn with_floor(floor: i64) -> Clock {
    Arc::new(move || Utc::now().0.max(floor))
}

/// The latest moment of which this device has proof: `not_before` of its certificate, and the
/// times at which the files of its state were written.
pub fn floor(not_before: i64, state: &[&Path]) -> i64 {
    let written = state
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|meta| meta.mtime());
    written.fold(not_before, i64::max)
}
