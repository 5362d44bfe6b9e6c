//! How old records are, when the clock may have been set meanwhile.
//!
//! A record's age is the time since its file was written. A router that booted in 1970 and is then
//! told the time would find all its records half a century old. So the difference between the two
//! clocks, the one that people set and the one that counts from boot, is kept in a file; when it has
//! grown, that much was added to the clock, and is added to the times of the records.

use super::lock::since_boot;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Smaller steps, and drift, are nothing to records that are kept for a day.
const STEP: i64 = 300;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Moves the times of `records` with the clock, if that was set forward since this was last asked.
/// `note` is where the difference is kept.
pub(super) fn follow_clock(note: &Path, records: impl Iterator<Item = PathBuf>, now: SystemTime) {
    let Some(boot) = boot_id() else {
        return;
    };
    let seconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    };
    let difference = seconds(now) - i64::try_from(since_boot()).unwrap_or(0);
    let before = kept(note, &boot);
    let step = before.map_or(0, |before| difference - before);
    if step > STEP {
        let step = Duration::from_secs(step.unsigned_abs());
        for record in records {
            shift(&record, step, now);
        }
    }
    if before.is_none() || step.abs() > STEP {
        let text = format!("{boot} {difference}\n");
        // Without the note nothing is moved, now or later.
        let _ = durable::write(note, text.as_bytes(), &Perm::mode(0o640));
    }
}

fn shift(record: &Path, step: Duration, now: SystemTime) {
    let moved = File::open(record).and_then(|file| {
        let written = file.metadata()?.modified()?;
        match written.checked_add(step) {
            // What was written after the step has the right time already.
            Some(later) => file.set_modified(later.min(now)),
            None => Ok(()),
        }
    });
    // It may have gone meanwhile.
    let _ = moved;
}

fn kept(note: &Path, boot: &str) -> Option<i64> {
    let text = Bounded::new(256).no_follow().text(note).ok()?;
    let (of, difference) = text.trim().split_once(' ')?;
    (of == boot).then(|| difference.parse().ok())?
}

fn boot_id() -> Option<String> {
    let text = Bounded::new(256).text(Path::new(BOOT_ID)).ok()?;
    Some(text.trim().to_owned())
}
