//! The best known time of a device whose own clock may be wrong.
//!
//! A router without a battery boots in 1970, or with the time of the newest file it finds. Two
//! things are known besides its clock. The own certificate's `notBefore` is *proof*, signed by the
//! CA: it was that late already. The times of files are hints that may be years off.
//!
//! So the end of certificates is judged by the system clock, or by the proof when the clock is
//! behind that; no hint can make a valid certificate look expired. Their beginning may be as late
//! as the newest file, so that a dispatcher's newer certificate passes on a device that has seen it;
//! and when the clock is known to be wrong, beginnings are not judged at all.

use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::verify::Clock;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file's time may be ahead of the clock without being worth a word, in seconds.
const AHEAD: i64 = 24 * 3600;

/// Where the time in use comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The system's clock.
    System,
    /// The start of the own certificate: the system's clock is behind it.
    Certificate,
}

impl Source {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Source::System => "system",
            Source::Certificate => "certificate",
        }
    }
}

/// What this device knows of the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClock {
    /// Start of the own certificate, Unix seconds.
    proof: i64,
    /// The newest of its files, with its time.
    newest: Option<(i64, PathBuf)>,
}

impl DeviceClock {
    /// A clock with the start of the own certificate and the files of the agent's state.
    pub fn new(not_before: i64, state: &[&Path]) -> DeviceClock {
        let times = state
            .iter()
            .filter_map(|path| Some((fs::metadata(path).ok()?.mtime(), path.to_path_buf())));
        DeviceClock {
            proof: not_before,
            newest: times.max(),
        }
    }

    /// The time by which the end of certificates is judged.
    pub fn now(&self) -> i64 {
        Utc::now().0.max(self.proof)
    }

    /// Where [`DeviceClock::now`] comes from.
    pub fn source(&self) -> Source {
        if Utc::now().0 < self.proof {
            Source::Certificate
        } else {
            Source::System
        }
    }

    /// [`DeviceClock::now`] for the verifiers.
    pub fn judge(&self) -> Clock {
        let proof = self.proof;
        Arc::new(move || Utc::now().0.max(proof))
    }

    /// The time by which the beginning of certificates is judged.
    pub fn latest(&self) -> Clock {
        let proof = self.proof;
        let written = self.newest.as_ref().map_or(proof, |(time, _)| *time);
        Arc::new(move || match Utc::now().0 {
            now if now < proof => i64::MAX,
            now => now.max(written),
        })
    }

    /// The newest file, when its time lies in the future.
    pub fn ahead(&self) -> Option<&Path> {
        let (time, path) = self.newest.as_ref()?;
        (*time > self.now().saturating_add(AHEAD)).then_some(path)
    }

    /// One line for a person: the time in use and where it comes from.
    pub fn describe(&self) -> String {
        let mut text = Utc(self.now()).iso();
        match self.source() {
            Source::System => text.push_str(" (system clock)"),
            Source::Certificate => text.push_str(&format!(
                " (start of the certificate: the system clock says {})",
                Utc::now().iso()
            )),
        }
        if let Some(path) = self.ahead() {
            text.push_str(&format!(
                "; the time of {} lies in the future and is ignored",
                path.display()
            ));
        }
        text
    }
}
